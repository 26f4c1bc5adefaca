"""What `make demo` relies on: the packaged model and the packaged reviews, in both formats."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from bertbatch import Job, run
from tests.helpers.paths import ROOT

EXAMPLES = ROOT / "examples"


def demo(tmp_path: Path, input: Path) -> pd.DataFrame:
    job = Job.load(
        ROOT / "jobs" / "reviews.yaml",
        [f"input.path={input}", f"output.path={tmp_path / input.name}", "runtime.runner=inline"],
    )
    result = run(job)
    assert result.exit_code == 0
    assert result.totals["rows_in"] == 400
    return result.to_pandas()


def test_the_demo_scores_its_reviews(tmp_path):
    parquet = demo(tmp_path, EXAMPLES / "reviews")
    csv = demo(tmp_path, EXAMPLES / "reviews.csv")
    # The null text is quarantined in both, the empty one is scored in both.
    assert csv["id"].tolist() == parquet["id"].tolist()
    assert set(parquet["id"]) == {f"r{i:03d}" for i in range(1, 401)} - {"r143"}
    np.testing.assert_allclose(np.stack(csv["scores"]), np.stack(parquet["scores"]), atol=0.02)
    rows = parquet.set_index("id")
    assert rows.loc["r088", "n_tokens"] == 2
    assert rows.loc["r289", "truncated"]
    assert rows["truncated"].sum() == 1
    assert rows.loc["r042", "scores"].tolist() == rows.loc["r287", "scores"].tolist()
    assert rows.loc[rows["lang"] == "ja", "unk_share"].mean() > 0.15
    english = rows[(rows["lang"] == "en") & rows["gold"].notna()]
    assert english["unk_share"].mean() < 0.01
    assert (english["gold"] == english["label"]).mean() > 0.8
    shown = subprocess.run(
        [sys.executable, str(EXAMPLES / "show.py"), str(tmp_path / "reviews")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "accuracy" in shown.stdout


def test_parquet_is_made_from_the_csv(tmp_path):
    """Both formats hold the same reviews, so that neither can drift."""
    parts = pd.concat([pd.read_parquet(p) for p in sorted((EXAMPLES / "reviews").iterdir())])
    raw = pd.read_csv(EXAMPLES / "reviews.csv", keep_default_na=False, dtype=str)
    pd.testing.assert_frame_equal(
        parts.fillna("").reset_index(drop=True).astype(object), raw.astype(object)
    )
