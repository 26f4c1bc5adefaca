"""Exports onto a real S3 server and a table read from it, as the documents show them."""

import zipfile
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from bertbatch.exports.export import Request, export
from bertbatch.storage.stores import connect
from tests.helpers.exported import same
from tests.helpers.jobs import CARRY
from tests.helpers.outputs import sound
from tests.helpers.racing_exports import row_like
from tests.helpers.seaweed import BUCKET, KEY, SECRET, seaweed


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    """Storage options of a server, which is in the environment, too, as commands take it."""
    with pytest.MonkeyPatch.context() as patch, seaweed(tmp_path_factory.mktemp("s3")) as options:
        patch.setenv("AWS_ACCESS_KEY_ID", KEY)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        patch.setenv("AWS_ENDPOINT_URL", options["client_kwargs"]["endpoint_url"])
        patch.setenv("AWS_REGION", "us-east-1")
        patch.setenv("AWS_ALLOW_HTTP", "true")
        yield options


@pytest.mark.parametrize("name", ["lines", "rows.csv"])
def test_files_are_exported_once(name, s3, output) -> None:
    target = f"s3://{BUCKET}/{name}"
    request = Request(str(output), target, None if "." in name else "jsonl")
    assert export(request).rows_added == 90
    assert export(request).rows_added == 0
    store, path = connect(target, s3)
    files = [path] if "." in name else [n for n in store.fs.find(path) if n.endswith(".jsonl")]
    frames = []
    for file in files:
        with store.open(file) as opened:
            frames.append(pd.read_csv(opened) if "." in name else pd.read_json(opened, lines=True))
    same(pd.concat(frames), output)


def test_a_table_is_exported_and_scored(s3, output, tmp_path, score) -> None:
    url = f"s3://{BUCKET}/table"
    assert export(Request(str(output), url, "delta", ("label",))).rows_added == 90
    assert export(Request(str(output), url, "delta")).rows_added == 0
    keys = {"input.text": "source", "input.carry": ["id", "label:was"], "input.storage_options": s3}
    found = score(url, tmp_path / "again", **keys).to_pandas()
    theirs = pd.concat(map(pd.read_parquet, output.glob("part-*.parquet"))).sort_values("id")
    assert found.sort_values("id")["id"].tolist() == theirs["id"].tolist()
    assert found.sort_values("id")["was"].tolist() == theirs["label"].tolist()
    schema = pa.schema(DeltaTable(url).schema().to_arrow())
    write_deltalake(url, row_like(schema, 0), mode="append")
    assert score(url, tmp_path / "again", **keys).run.rows == 1
    sound(tmp_path / "again", rows_scored=91)


def test_an_archive_is_read(s3, tmp_path, score) -> None:
    path: Path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w") as zipped:
        for i in range(2):
            zipped.writestr(f"reviews/{i}.csv", f"id,text\n{i},good\n")
    store, folder = connect(f"s3://{BUCKET}/reviews.zip", s3)
    store.create(folder, path.read_bytes())
    found = score(f"zip://reviews/*.csv::s3://{BUCKET}/reviews.zip", tmp_path / "out", **CARRY)
    assert sorted(found.to_pandas()["id"]) == ["0", "1"]
