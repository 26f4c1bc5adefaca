"""What `import bertbatch` gives to run jobs, also in notebooks."""

import sys

from bertbatch.job.schema import Job
from bertbatch.runtime import run as runs
from bertbatch.runtime.result import ProgressListener, Result


def run(job: Job, listener: ProgressListener | None = None, verbose: bool = False) -> Result:
    """Runs a job to its end; the same job again resumes, or scores only what is new.

    In a notebook progress is told by plain lines, unless a listener is given. Raises JobError if
    the job cannot start, Alarm if its input is empty and it says that this is one; nothing is
    written then.
    """
    if listener is None and _in_notebook():
        from bertbatch.display.progress import notebook_listener

        listener = notebook_listener()
    return runs.run(job, listener, verbose)


def _in_notebook() -> bool:
    """Whether this is the kernel of a notebook, not IPython on a terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
