"""How many labels a precision changes: `python -m benchmarks.precision INPUT bfloat16`.

The same rows are scored in float32 and in the other precision, by the torch engine in this
process. Printed are the share of rows whose labels differ and the largest difference of a score.
"""

import argparse
import tempfile
import time

import numpy as np

from bertbatch import Job, run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("input")
    parser.add_argument("dtype")
    parser.add_argument("--model", default="sentiment-mini")
    parser.add_argument("--text", default="text")
    parser.add_argument("--limit", type=int, default=2000)
    given = parser.parse_args()
    answers = {}
    for dtype in ("float32", given.dtype):
        with tempfile.TemporaryDirectory() as folder:
            job = Job.build(
                {
                    "input": {"path": given.input, "text": given.text, "limit": given.limit},
                    "output": {"path": f"{folder}/out"},
                    "model": {"name": given.model, "engine": "torch", "dtype": dtype},
                    "runtime": {"runner": "inline"},
                }
            )
            began = time.monotonic()
            answers[dtype] = run(job).to_pandas()
            print(f"{dtype}: {len(answers[dtype]):,} rows in {time.monotonic() - began:.0f} s")
    ours, other = answers["float32"], answers[given.dtype]
    changed = int((ours["label"].astype(str) != other["label"].astype(str)).sum())
    scores = [np.stack(table["scores"].to_list()) for table in (ours, other)]
    largest = float(np.abs(scores[0] - scores[1]).max())
    print(f"{changed:,} of {len(ours):,} labels differ ({changed / len(ours):.2%})")
    print(f"largest difference of a score: {largest:.3f}")


if __name__ == "__main__":
    main()
