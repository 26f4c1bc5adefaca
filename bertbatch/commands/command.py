"""What the commands have in common: the app, exit codes, options of several commands."""

import functools
import io
import re
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO

import typer
from typer.core import TyperCommand, TyperGroup

from bertbatch.display.streams import make_steady
from bertbatch.errors import Alarm, JobError, RunError
from bertbatch.job.schema import Job


class _Said(io.StringIO):
    """What is said to standard output, as it would be there."""

    def __init__(self, there: TextIO):
        super().__init__()
        self._is_terminal = there.isatty()

    def isatty(self) -> bool:
        return self._is_terminal


class _TrimmedHelp:
    """A command whose help has no spaces at the ends of its lines, which rich fills up."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        with redirect_stdout(_Said(sys.stdout)) as said:
            super().format_help(ctx, formatter)  # type: ignore[misc]
        filled = re.compile(r"(?: |\x1b\[[\d;]*m)+$", re.M)  # spaces, in the colors of a terminal
        print(filled.sub(lambda end: end[0].replace(" ", ""), said.getvalue()), end="")


class _Command(_TrimmedHelp, TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click does, which takes `--to` for the value in `--html --to x.html`."""
        rest = super().parse_args(ctx, args)
        options: list[Any] = [p for p in self.params if p.param_type_name == "option"]
        for option in options:
            given = ctx.params.get(option.name or "")
            for value in given if isinstance(given, list) else [given]:
                if re.fullmatch(r"--[a-z][a-z-]*", str(value)):
                    raise typer.BadParameter(f"not {value}, an option", ctx=ctx, param=option)
        return rest


class _Commands(_TrimmedHelp, TyperGroup):
    pass


class _App(typer.Typer):
    """The commands as a process of their own has them."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        make_steady()
        return super().__call__(*args, **kwargs)


app = _App(
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(asked: bool) -> None:
    if asked:
        from bertbatch import __version__

        print(f"bertbatch {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="print the version and exit"
        ),
    ] = False,
) -> None:
    """Exactly-once batch scoring of text with BERT-family models."""


def command(function: Callable[..., int | None]) -> Callable[..., None]:
    """A command of the app. Its exit code is what the function returns, or an error's."""

    @functools.wraps(function)
    def called(*args: Any, **kwargs: Any) -> None:
        sys.exit(_guard(lambda: function(*args, **kwargs) or 0))

    app.command(cls=_Command)(called)
    return called


def of_job(key: str, default: str = "none", more: str = "") -> Any:
    """An option that sets a key of the job: what it means is said there.

    `default` says what holds without it, where the key's own default does not.
    """
    section, _, name = key.partition(".")
    shape = Job.model_fields[section].annotation.model_fields[name]  # type: ignore[union-attr]
    shown = default if shape.default in (None, [], "") else str(shape.default)
    return typer.Option(help=f"{shape.description}{more}", show_default=shown)


Input = Annotated[
    str,
    typer.Argument(metavar="INPUT", help="a file, folder or glob; local or s3://, gs://, …"),
]
JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="the job file")]
OutputPath = Annotated[
    str, typer.Argument(metavar="OUTPUT", help="the output of a job: a folder or URL")
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="change a key: a.b=c, of a list: a.b=c,d (repeatable)", show_default="none"
    ),
]
Date = Annotated[
    str | None,
    typer.Option("--date", help="the day that {date} in paths means", show_default="today"),
]
Name = Annotated[
    str | None,
    typer.Option("--run", help="the name that {run} in paths means", show_default="the time"),
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
