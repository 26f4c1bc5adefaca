"""What an export has written, beside what the output holds."""

from pathlib import Path

import pandas as pd
import pytest

READ = {
    "parquet": pd.read_parquet,
    "csv": pd.read_csv,
    "jsonl": lambda path: pd.read_json(path, lines=True),
}


def wanted(output: Path) -> pd.DataFrame:
    found = pd.concat(pd.read_parquet(path) for path in sorted(output.glob("part-*.parquet")))
    found["source"] = found["source"].astype(str)
    return found.sort_values(["source", "row"], ignore_index=True)


def read(target: Path, format_: str) -> pd.DataFrame:
    files = [target] if target.is_file() else sorted(target.rglob(f"*.{format_}"))
    return pd.concat([READ[format_](file) for file in files], ignore_index=True)


def same(found: pd.DataFrame, output: Path, ordered: bool = True) -> None:
    theirs = wanted(output)
    if not ordered:
        found = found.sort_values(["source", "row"], ignore_index=True)
    for name in ("source", "row", "id", "label"):
        assert found[name].tolist() == theirs[name].tolist(), name
    assert found["score"].to_numpy() == pytest.approx(theirs["score"].to_numpy(), abs=1e-6)
