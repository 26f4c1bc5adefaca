"""How many labels a precision changes: `python -m benchmarks.precision INPUT bfloat16`.

The same rows are scored in float32 and in the other precision, by the torch engine in this process.
"""

import argparse
import tempfile
import time

import numpy as np
import pandas as pd

from benchmarks.report import Report
from bertbatch import Job, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input")
    parser.add_argument("dtype")
    parser.add_argument("--model", default="sentiment-mini")
    parser.add_argument("--text", default="text")
    parser.add_argument("--limit", type=int, default=2000)
    given = parser.parse_args()
    report = Report("Labels that a precision changes")
    tables, seconds = [], []
    for dtype in ("float32", given.dtype):
        began = time.monotonic()
        tables.append(scored(given, dtype))
        seconds.append(time.monotonic() - began)
    exact, other = tables
    changed = int((exact["label"].astype(str) != other["label"].astype(str)).sum())
    scores = [np.stack(table["scores"].to_list()) for table in tables]
    largest = float(np.abs(scores[0] - scores[1]).max())
    report.table(
        f"{given.model}, {given.dtype} against float32",
        ("rows", "labels that differ", "largest difference of a score", "float32 s", "s"),
        [
            (
                f"{len(exact):,}",
                f"{changed:,} ({changed / len(exact):.2%})",
                f"{largest:.3f}",
                *(f"{took:.0f}" for took in seconds),
            )
        ],
    )


def scored(given: argparse.Namespace, dtype: str) -> pd.DataFrame:
    """The predictions in one precision."""
    with tempfile.TemporaryDirectory() as folder:
        job = Job.build(
            {
                "input": {"path": given.input, "text": given.text, "limit": given.limit},
                "output": {"path": f"{folder}/out"},
                "model": {"name": given.model, "engine": "torch", "dtype": dtype},
                "runtime": {"runner": "inline"},
            }
        )
        return run(job).to_pandas()


if __name__ == "__main__":
    main()
