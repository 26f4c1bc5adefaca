"""Makes small outputs of this version, which every later version must read and resume.

`python -m tests.helpers.stored_output` writes them for the current version, with their input and
model, into tests/exactly_once/data/released/. It is run once for a release, by its own code.
"""

import os
import shutil
import tempfile
from pathlib import Path

import yaml

import bertbatch
from bertbatch import Job, run
from tests.helpers.paths import ROOT
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts

STORED = ROOT / "tests" / "exactly_once" / "data" / "released"
WRITTEN = 1_790_000_000  # when the input was, which is part of the sources' fingerprints
# Together they have every kind of file that an output can have.
JOBS = {
    "statistics": {"attention": {"statistics": ["entropy"]}},
    "repeats": {
        "input": {"dedupe": "corpus", "where": "id <> 3"},
        "model": {"max_length": 16, "long_text": "windows"},
    },
}
INPUT = {"path": "in", "carry": ["id", "day"]}
MODEL = {"name": "model", "dtype": "float32"}
TINY = {"hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}


def make(folder: Path) -> None:
    """Input, model and outputs in an empty folder."""
    make_model(folder / "model", **TINY)
    texts: list[str | None] = [*make_texts(7), None]
    write_parquet(folder / "in" / "day=2026-01-01" / "a.parquet", texts)
    write_parquet(folder / "in" / "day=2026-01-02" / "b.parquet", [*texts[4:], "one more"], 8)
    for name, keys in JOBS.items():
        job = {
            "input": {**INPUT, **keys.get("input", {})},
            "output": {"path": name},
            "model": {**MODEL, **keys.get("model", {})},
            "limits": {"max_quarantined": 1},
            "runtime": {"runner": "inline", "unit_rows": 8},
        }
        if "attention" in keys:
            job["attention"] = keys["attention"]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(job, sort_keys=False))
        assert run(stored_job(folder, name)).exit_code == 0


def stored_job(folder: Path, name: str) -> Job:
    """The job of an output, wherever the folder is now."""
    for path in (folder / "in").rglob("*.parquet"):
        os.utime(path, (WRITTEN, WRITTEN))
    moved = {"input.path": "in", "output.path": name, "model.name": "model"}
    changes = [f"{key}={folder / path}" for key, path in moved.items()]
    return Job.load(folder / f"{name}.yaml", changes)


if __name__ == "__main__":
    target = STORED / bertbatch.__version__
    made = Path(tempfile.gettempdir(), f"bertbatch-{bertbatch.__version__}")  # records name it
    for old in (target, made):
        shutil.rmtree(old, ignore_errors=True)
    make(made)
    shutil.move(made, target)
    print(target, sum(path.stat().st_size for path in target.rglob("*") if path.is_file()), "bytes")
