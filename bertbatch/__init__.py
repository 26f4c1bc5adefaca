"""bertbatch: exactly-once batch scoring of text with BERT-family classifiers.

from bertbatch import Job, run

result = run(Job.load("jobs/reviews.yaml"))
print(result.totals["rows_scored"])
table = result.to_pandas()

from bertbatch import score

labels = score(["A quiet, lovely film.", "Two hours lost."]).to_pandas()["label"]
"""

import importlib
from typing import TYPE_CHECKING, Any

from bertbatch.errors import JobError, RunError, SourceError
from bertbatch.job.schema import Job

if TYPE_CHECKING:
    from bertbatch.attention.row_columns import attention_array
    from bertbatch.python import Scores, run, score
    from bertbatch.runtime.result import Result, load_attention

__version__ = "0.1.0"
__all__ = [
    "Job",
    "JobError",
    "Result",
    "RunError",
    "Scores",
    "SourceError",
    "attention_array",
    "load_attention",
    "run",
    "score",
]
LATER = {
    "Result": "bertbatch.runtime.result",
    "attention_array": "bertbatch.attention.row_columns",
    "load_attention": "bertbatch.runtime.result",
    "Scores": "bertbatch.python",
    "run": "bertbatch.python",
    "score": "bertbatch.python",
}


def __getattr__(name: str) -> Any:
    """What imports pyarrow, which a job file does not need, on first use."""
    if name in LATER:
        return getattr(importlib.import_module(LATER[name]), name)
    raise AttributeError(f"module 'bertbatch' has no attribute '{name}'")
