"""bertbatch: exactly-once batch scoring of text with BERT-family classifiers.

from bertbatch import Job, run

result = run(Job.load("jobs/reviews.yaml"))
print(result.totals["rows_scored"])
table = result.to_pandas()
"""

from typing import TYPE_CHECKING, Any

from bertbatch.errors import JobError, RunError, SourceError
from bertbatch.job import Job

if TYPE_CHECKING:
    from bertbatch.results import Result
    from bertbatch.runs import run

__version__ = "0.1.0"
__all__ = ["Job", "JobError", "Result", "RunError", "SourceError", "run"]


def __getattr__(name: str) -> Any:
    """`run` and `Result` on first use: they import pyarrow, which a job file does not need."""
    if name in ("run", "Result"):
        from bertbatch import runs

        return getattr(runs, name)
    raise AttributeError(f"module 'bertbatch' has no attribute '{name}'")
