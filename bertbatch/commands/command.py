"""What the commands have in common: the app, exit codes, options of several commands."""

import functools
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from pydantic import ValidationError
from typer.core import TyperCommand

from bertbatch.display.json_lines import JsonStderr, asks_for_json, json_line
from bertbatch.display.streams import make_steady
from bertbatch.errors import Alarm, JobError, RunError, first_line
from bertbatch.job.messages import of_option
from bertbatch.job.schema import Job


class _App(typer.Typer):
    """The commands as a process of their own has them."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        make_steady()
        if not asks_for_json(sys.argv[1:]):
            return super().__call__(*args, **kwargs)
        JsonStderr()
        try:
            sys.exit(super().__call__(*args, standalone_mode=False, **kwargs) or 0)
        except Exception as error:
            code = getattr(error, "exit_code", 1)
            if (usage := getattr(error, "format_message", None)) is not None:
                _tell_as_json("error", usage(), code)
            else:
                said = f"{type(error).__name__}: {first_line(error)}"
                _tell_as_json("error", said, code, traceback=traceback.format_exc())
            sys.exit(code)


class _Command(TyperCommand):
    """A command whose errors are in our own words, where typer has pydantic's."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValidationError):
                error.message = of_option(error.__cause__)
            raise


app = _App(
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
        tell = _tell_as_json if kwargs.get("log") == "json" else _tell_plainly
        sys.exit(_guard(lambda: function(*args, **kwargs) or 0, tell))

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
    typer.Option("--set", help="change a key: a.b=c (repeatable)", show_default="none"),
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


def _guard(command: Any, tell: Callable[[str, str, int], None]) -> int:
    """The command's exit code; an error in the job is told without a traceback."""
    try:
        return int(command())
    except JobError as error:
        event, said, code = "error", str(error), 2
    except Alarm as error:
        event, said, code = "alarm", str(error), 4
    except RunError as error:
        event, said, code = "error", f"{error}\ncommitted units are kept", 3
    except OSError as error:  # while an output is read; a run tells its own
        event, said, code = "error", f"the storage failed: {error}", 3
    except KeyboardInterrupt:
        event, said, code = "stopped", "run the same command again to resume", 130
    tell(event, said, code)
    return code


def _tell_plainly(event: str, said: str, code: int) -> None:
    print(f"{event}: {said}", file=sys.stderr)


def _tell_as_json(event: str, said: str, code: int, **more: str) -> None:
    print(json_line(event, {"exit_code": code, "message": said, **more}), file=sys.stderr)
