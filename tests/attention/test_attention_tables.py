"""What `bertbatch attention` writes into a file, and how it shows a comparison."""

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq
import pytest

from bertbatch import run
from tests.helpers.command_line import invoke
from tests.helpers.jobs import make_job
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_texts


def job(model, source, out, **keys):
    statistics = {"attention.statistics": ["entropy", "to_sep"], "attention.per_row": False}
    return make_job(model, source, out, **statistics, **keys)


@pytest.fixture(scope="module")
def attended(tmp_path_factory, tiny_model):
    """An output with the statistics of 60 rows; beside it lie its input and another output."""
    folder = tmp_path_factory.mktemp("attended")
    write_parquet(folder / "in.parquet", make_texts(60), 0)
    for name in ("out", "other"):
        run(job(tiny_model, folder / "in.parquet", folder / name))
    return folder / "out"


@pytest.mark.parametrize("ending", ["csv", "CSV", "jsonl", "ndjson", "pq"])
@pytest.mark.parametrize("against", [True, False])
def test_a_table_is_what_its_name_says(ending, against, attended, tmp_path):
    words = [
        "attention",
        str(attended),
        *(["--against", f"{attended.parent}/other"] if against else []),
    ]
    files = [tmp_path / "t.parquet", tmp_path / f"t.{ending}"]
    for file in files:
        code, said = invoke(*words, "--to", str(file))
        assert code == 0, said
    wanted = pq.read_table(files[0])
    if ending == "pq":
        assert pq.read_table(files[1]).equals(wanted)
        return
    reader = pa.csv.read_csv if ending.lower() == "csv" else pa.json.read_json
    found = reader(files[1])
    assert found.column_names == wanted.column_names
    assert found.num_rows == wanted.num_rows
    for name in ("layer", "difference" if against else "mean"):
        np.testing.assert_allclose(found[name].to_numpy(), wanted[name].to_numpy())


@pytest.mark.parametrize("name", ["t.xlsx", "t.tsv", "t.json", "t", "t.png"])
def test_a_table_of_another_kind_is_refused(name, attended, tmp_path):
    code, said = invoke("attention", str(attended), "--to", str(tmp_path / name))
    assert code == 2
    assert f"{name}: the name of a table ends in .parquet, .pq, .csv, .jsonl or .ndjson" in said
    assert not (tmp_path / name).exists()


def test_a_comparison_says_which_way_a_difference_goes(attended, tiny_model, tmp_path):
    other = tmp_path / "other"
    run(job(tiny_model, attended.parent / "in.parquet", other, **{"input.where": "id >= 30"}))
    for this, that in ((attended, other), (other, attended)):
        said = invoke("attention", str(this), "--against", str(that))[1]
        assert f"difference: {this} minus {that} within ranges" in " ".join(said.split())
