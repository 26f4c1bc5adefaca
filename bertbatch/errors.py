"""What can be wrong: the job as a whole, one source, or what a run needs to go on.

Every message says what was wrong, where, and what to do next; the command line prints
it without a traceback.
"""


class DataLost(Exception):
    """What a stage had made is gone, or no longer whole: it has to be read again."""


class JobError(Exception):
    """The job cannot start or go on as it is written; the command line exits with 2."""


class EmptyInput(JobError):
    """There is nothing to score at the input's path."""


class Alarm(Exception):
    """An alarm of the job that goes off before anything runs; the command line exits with 4."""


class RunError(Exception):
    """A run cannot go on; what is committed is kept, and the command line exits with 3."""


class SourceError(Exception):
    """One source cannot be read; everything else is scored and the run exits with 3."""

    def __init__(self, source: str, reason: str):
        super().__init__(source, reason)
        self.source = source
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.source}: {self.reason}"


class OutOfMemory(Exception):
    """The device had no room for a batch."""


class DeviceLost(Exception):
    """The process can no longer use its GPU: every further call fails as the one before did.

    An index out of range on the device does that, an illegal address, or memory that is
    broken. A fresh process can use the GPU again, if the GPU itself is sound.
    """


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its class without a message."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
