"""What the commands have in common: the app, exit codes, options of several commands."""

import functools
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from bertbatch.display.streams import make_steady
from bertbatch.errors import Alarm, JobError, RunError


class _App(typer.Typer):
    """The commands as a process of their own has them."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        make_steady()
        return super().__call__(*args, **kwargs)


app = _App(
    help="Exactly-once batch scoring of text with BERT-family classifiers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def command(function: Callable[..., int | None]) -> Callable[..., None]:
    """A command of the app. Its exit code is what the function returns, or an error's."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> None:
        sys.exit(_guard(lambda: function(*args, **kwargs) or 0))

    app.command()(called)
    return called


JobFile = Annotated[Path, typer.Argument(help="the job file")]
Set = Annotated[list[str] | None, typer.Option("--set", help="change a key: a.b=c (repeatable)")]
Date = Annotated[
    str | None, typer.Option("--date", help="the day that {date} in paths means; default: today")
]
Name = Annotated[
    str | None, typer.Option("--run", help="the name that {run} in paths means; default: the time")
]
Style = Literal["auto", "plain", "json"]
Log = Annotated[
    Style,
    typer.Option("--log", help="progress as a display, plain lines or JSON lines"),
]
Verbose = Annotated[bool, typer.Option("--verbose", help="also show Ray's own messages")]


def _guard(command: Any) -> int:
    """The command's exit code; an error in the job is told without a traceback."""
    try:
        return int(command())
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Alarm as error:
        print(f"alarm: {error}", file=sys.stderr)
        return 4
    except RunError as error:
        print(f"error: {error}\ncommitted units are kept", file=sys.stderr)
        return 3
    except OSError as error:  # while an output is read; a run tells its own
        print(f"error: the storage failed: {error}", file=sys.stderr)
        return 3
    except KeyboardInterrupt:
        print("stopped; run the same command again to resume", file=sys.stderr)
        return 130
