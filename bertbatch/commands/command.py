"""The app that the commands are of, how each ends: exit codes, errors, signals."""

import functools
import io
import re
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Annotated, Any, TextIO

import typer
from pydantic import ValidationError
from typer.core import TyperCommand, TyperGroup

from bertbatch.display.json_lines import JsonStderr, asks_for_json, json_line
from bertbatch.display.streams import make_steady
from bertbatch.errors import Alarm, JobError, RunError, first_line
from bertbatch.job.messages import of_option

TABLES = 80  # columns that tables of options need
NAME = 12  # columns beside what is said of an option; a longer name stands above it


class _Said(io.StringIO):
    """What is said to standard output, as it would be there."""

    def __init__(self, there: TextIO):
        super().__init__()
        self._is_terminal = there.isatty()

    def isatty(self) -> bool:
        return self._is_terminal


class _FittedHelp:
    """A command whose help has no spaces at the ends of its lines, which rich fills up.

    Where rich's tables would cut the names of options, it is plain.
    """

    rich_markup_mode: Any

    def format_help(self, ctx: Any, formatter: Any) -> None:
        if (columns := shutil.get_terminal_size().columns) < TABLES:
            formatter.width, self.rich_markup_mode = columns, None
            formatter.write_dl = functools.partial(formatter.write_dl, col_max=NAME)
            super().format_help(ctx, formatter)  # type: ignore[misc]
            formatter.buffer = [re.sub(r" +$", "", formatter.getvalue(), flags=re.M)]
            return
        with redirect_stdout(_Said(sys.stdout)) as said:
            super().format_help(ctx, formatter)  # type: ignore[misc]
        filled = re.compile(r"(?: |\x1b\[[\d;]*m)+$", re.M)  # spaces, in the colors of a terminal
        print(filled.sub(lambda end: end[0].replace(" ", ""), said.getvalue()), end="")


class _Command(_FittedHelp, TyperCommand):
    """A command whose errors are in our own words, where typer has pydantic's."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        try:
            return super().make_context(*args, **kwargs)
        except typer.BadParameter as error:
            if isinstance(error.__cause__, ValidationError):
                error.message = of_option(error.__cause__)
            raise

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """As click does, which takes `--to` for the value in `--html --to x.html`."""
        rest = super().parse_args(ctx, args)
        options: list[Any] = [p for p in self.params if p.param_type_name == "option"]
        for option in options:
            given = ctx.params.get(option.name or "")
            for value in given if isinstance(given, list) else [given]:
                if re.fullmatch(r"--[a-z][a-z-]*", str(value)):
                    said = f"'{value}' is an option, not a value"
                    raise typer.BadParameter(said, ctx=ctx, param=option)
        return rest


class _Commands(_FittedHelp, TyperGroup):
    pass


class _App(typer.Typer):
    """The commands as a process of their own has them."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        make_steady()
        try:
            return self._called(*args, **kwargs)
        finally:  # what ends with the process is not to be interrupted by one more Ctrl-C
            with suppress(ValueError):  # not in the main thread
                signal.signal(signal.SIGINT, signal.SIG_IGN)

    def _called(self, *args: Any, **kwargs: Any) -> Any:
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
        tell = _tell_as_json if kwargs.get("log") == "json" else _tell_plainly
        sys.exit(_guard(lambda: function(*args, **kwargs) or 0, tell))

    app.command(cls=_Command)(called)
    return called


def _guard(command: Any, tell: Callable[[str, str, int], None]) -> int:
    """The command's exit code; an error in the job is told without a traceback."""
    try:
        with _terminable():
            return int(command())
    except JobError as error:
        event, said, code = "error", str(error), 2
    except Alarm as error:
        event, said, code = "alarm", str(error), 4
    except RunError as error:
        event, said, code = "error", f"{error}\ncommitted units are kept", 3
    except OSError as error:  # while an output is read; a run tells its own
        event, said, code = "error", f"the storage failed: {error}", 3
    except KeyboardInterrupt as error:
        number = error.args[0] if error.args else signal.SIGINT
        event, said, code = (
            "stopped",
            "the same command goes on from what is committed",
            128 + number,
        )
    tell(event, said, code)
    return code


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM as Ctrl-C, where a run does not handle both itself: while it checks and loads."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(number)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _tell_plainly(event: str, said: str, code: int) -> None:
    print(f"{event}: {said}", file=sys.stderr)


def _tell_as_json(event: str, said: str, code: int, **more: str) -> None:
    print(json_line(event, {"exit_code": code, "message": said, **more}), file=sys.stderr)
