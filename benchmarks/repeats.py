"""What `input.dedupe: corpus` saves, by how much of a corpus is repeated, and what it costs.

The same job with and without, in turn, in one process with the packaged model. Of a share of the
rows each has one of the texts of other rows, drawn alike, so that units have few twice.
"""

import argparse
import logging
import random
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.corpora import generated
from benchmarks.report import Report
from bertbatch import Job, run

SHARES = (0.0, 0.05, 0.2, 0.6)
PAIRS = 3


def write(path: Path, rows: int, share: float) -> None:
    """A corpus in which this share of the rows has the text of another row."""
    draw = random.Random(0)
    texts = [f"{i} {text}" for i, text in enumerate(islice(generated("mixed"), rows))]
    some = texts[: max(int(rows * share / 4), 1)]
    repeated = set(draw.sample(range(rows), int(rows * share)))
    table = pa.table(
        {"text": [draw.choice(some) if i in repeated else texts[i] for i in range(rows)]}
    )
    pq.write_table(table, path)


def seconds(path: Path, out: Path, dedupe: str | None) -> tuple[float, int]:
    """How long a run takes, without its start, and how many rows had stored answers."""
    job = Job.build(
        {
            "input": {"path": str(path), "dedupe": dedupe},
            "output": {"path": str(out)},
            "runtime": {"runner": "inline"},
        }
    )
    began = time.perf_counter()
    result = run(job)
    whole = time.perf_counter() - began
    return result.totals["scoring_seconds"] or whole, result.run.rows_repeated


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=6000)
    given = parser.parse_args()
    logging.disable(logging.INFO)
    table = []
    with tempfile.TemporaryDirectory() as folder:
        for share in SHARES:
            path = Path(folder) / f"{share}.parquet"
            write(path, given.rows, share)
            pairs, repeated = [], 0
            for i in range(PAIRS):
                taken = {}
                for dedupe in (None, "corpus") if i % 2 else ("corpus", None):
                    out = Path(folder) / f"{share}-{i}-{dedupe}"
                    taken[dedupe], rows = seconds(path, out, dedupe)
                    repeated = max(rows, repeated)
                pairs.append((taken[None], taken["corpus"]))
            ratios = sorted(plain / once for plain, once in pairs)
            table.append(
                [
                    f"{share:.0%}",
                    f"{repeated / given.rows:.0%}",
                    f"{given.rows / median(plain for plain, _ in pairs):,.0f}",
                    f"{given.rows / median(once for _, once in pairs):,.0f}",
                    f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                ]
            )
    report = Report("Repeated texts scored once")
    report.table(
        f"`input.dedupe: corpus`, {given.rows:,} texts of the mixed corpus, packaged model, inline",
        ["repeated", "rows with stored answers", "rows/s without", "rows/s with", "with ÷ without"],
        table,
    )


if __name__ == "__main__":
    main()
