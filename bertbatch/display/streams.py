"""Standard streams that never fail: a broken terminal must not change how a job ends.

A closed stream, a full disk behind it, a reader that has left or an encoding without a letter
raise in the middle of whatever is being told, which may be that everything is committed.
"""

import io
import os
import select
import sys
from contextlib import suppress
from typing import TextIO


def make_steady() -> None:
    """Replaces this process's standard streams. Streams that somebody else has put there stay."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, f"__{name}__") is None:
            # Closed. The next file that is opened would get the stream's number, and with it
            # whatever a library prints: so the lowest free one, which is this, goes to nobody.
            _nobody(number)
            stream = open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)
    sys.stdout = _steady(sys.stdout)
    sys.stderr = _steady(sys.stderr)


def _nobody(number: int) -> None:
    """Opens the null device as a stream's number."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != number:
        os.dup2(null, number)
        os.close(null)
    else:
        os.set_inheritable(null, True)


class SteadyFile(io.FileIO):
    """A file whose writes succeed, whatever becomes of them."""

    def write(self, data: object) -> int:
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        try:
            written = super().write(data)  # type: ignore[arg-type]
            while written is None:  # a pipe that does not block, and is full
                select.select([], [self], [])
                written = super().write(data)  # type: ignore[arg-type]
            return written
        except (OSError, ValueError) as error:
            self._lost(error)
            return size

    def _lost(self, error: Exception) -> None:
        """Nobody gets what follows; said once if there is somebody to say it to."""
        number = self.fileno()
        with suppress(OSError):
            _nobody(number)
        if number == 1 and not isinstance(error, BrokenPipeError):  # `| head` is no trouble
            print(f"standard output cannot be written: {error}", file=sys.stderr)


def _steady(stream: TextIO) -> TextIO:
    try:
        stream.flush()
        raw = SteadyFile(stream.fileno(), "w", closefd=False)
    except (OSError, ValueError, AttributeError):  # what somebody else has put there
        return stream
    # A letter that the encoding lacks is written as its number, and half a letter of a file's
    # name, which is no Unicode, too.
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=raw.fileno() == 2 or raw.isatty(),
        write_through=raw.fileno() == 2,
    )
