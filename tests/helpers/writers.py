"""The same rows as files of every format, each written by a program that people use."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq

Write = Callable[[pa.Table, Path], Path]  # writes below a folder; returns what to read


def _arrow_file(compression: str | None) -> Write:
    def write(table: pa.Table, folder: Path) -> Path:
        path = folder / "x.arrow"
        options = pa.ipc.IpcWriteOptions(compression=compression)
        with pa.ipc.new_file(path, table.schema, options=options) as file:
            file.write_table(table, max_chunksize=7)
        return path

    return write


def _arrow_stream(table: pa.Table, folder: Path) -> Path:
    path = folder / "x.arrows"
    with pa.ipc.new_stream(path, table.schema) as stream:
        stream.write_table(table, max_chunksize=7)
    return path


def _dictionaries(table: pa.Table, folder: Path) -> Path:
    """Texts as a dictionary that grows from batch to batch."""
    path = folder / "x.arrows"
    options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
    kind = pa.dictionary(pa.int32(), pa.string())
    schema = pa.schema([("id", pa.int64()), ("text", kind)])
    with pa.ipc.new_stream(path, schema, options=options) as stream:
        for start in range(0, len(table), 7):
            part = table.slice(start, 7).combine_chunks()
            text = part["text"].combine_chunks().dictionary_encode()
            stream.write_batch(pa.record_batch([part["id"].combine_chunks(), text], schema=schema))
    return path


def _by_duckdb(name: str, options: str) -> Write:
    def write(table: pa.Table, folder: Path) -> Path:
        path = folder / name
        duckdb.connect().register("rows", table).execute(
            f"COPY (SELECT * FROM rows) TO '{path}' ({options})"
        )
        return path

    return write


def _by_pandas(method: str, name: str, **options: Any) -> Write:
    def write(table: pa.Table, folder: Path) -> Path:
        getattr(table.to_pandas(), f"to_{method}")(folder / name, **options)
        return folder / name

    return write


def _by_polars(method: str, name: str, **options: Any) -> Write:
    def write(table: pa.Table, folder: Path) -> Path:
        getattr(pl.DataFrame(table), f"write_{method}")(folder / name, **options)
        return folder / name

    return write


def _saved(table: pa.Table, folder: Path) -> Path:
    """A saved dataset in two files, beside a result that `map` has cached."""
    saved = datasets.Dataset(table.cast(table.schema))
    saved.save_to_disk(folder / "saved", num_shards=2)
    again = datasets.load_from_disk(folder / "saved")
    again.map(lambda row: {"text": row["text"] + "!"}, load_from_cache_file=False)
    assert list((folder / "saved").glob("cache-*.arrow"))
    return folder / "saved"


def _saved_splits(table: pa.Table, folder: Path) -> Path:
    splits = {
        "a": datasets.Dataset(table.slice(0, len(table) // 2)),
        "b": datasets.Dataset(table.slice(len(table) // 2)),
    }
    datasets.DatasetDict(splits).save_to_disk(folder / "saved")
    return folder / "saved"


def _parquet_tree(table: pa.Table, folder: Path) -> Path:
    """As the Hub has datasets."""
    (folder / "data").mkdir()
    (folder / "README.md").write_text("---\nconfigs: []\n---\n")
    datasets.Dataset(table).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    return folder


def _spark_csv(table: pa.Table, folder: Path) -> Path:
    """A folder as Spark writes it: a backslash before quotes, and files that are no data."""
    (folder / "x").mkdir()
    (folder / "x" / "_SUCCESS").touch()
    (folder / "x" / ".part-00000.csv.crc").write_bytes(b"crc")
    lines = [
        '{},"{}"\n'.format(row["id"], row["text"].replace("\\", "\\\\").replace('"', '\\"'))
        for row in table.to_pylist()
    ]
    (folder / "x" / "part-00000.csv").write_text("id,text\n" + "".join(lines))
    return folder / "x"


def _utf16(table: pa.Table, folder: Path) -> Path:
    table.to_pandas().to_csv(folder / "x.tsv", sep="\t", index=False, encoding="utf-16")
    return folder / "x.tsv"


def _bytes(table: pa.Table, folder: Path) -> Path:
    """As Impala writes texts: nothing says that they are UTF-8."""
    text = table["text"].cast(pa.binary())
    pq.write_table(table.set_column(1, "text", text), folder / "x.parquet")
    return folder / "x.parquet"


def _required(file: Write) -> Write:
    """As programs write that declare columns to have no nulls."""

    def write(table: pa.Table, folder: Path) -> Path:
        fields = [field.with_nullable(False) for field in table.schema]
        return file(table.cast(pa.schema(fields)), folder)

    return write


def _parquet(table: pa.Table, folder: Path) -> Path:
    pq.write_table(table, folder / "x.parquet", row_group_size=9)
    return folder / "x.parquet"


def _json_typed(table: pa.Table, folder: Path) -> Path:
    kind = pa.json_(pa.string())
    text = pa.chunked_array([pa.ExtensionArray.from_storage(kind, c) for c in table["text"].chunks])
    pq.write_table(table.set_column(1, "text", text), folder / "x.parquet")
    return folder / "x.parquet"


def _packed_jsonl(table: pa.Table, folder: Path) -> Path:
    path = _by_polars("ndjson", "x.jsonl")(table, folder)
    (folder / "x.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return folder / "x.jsonl.gz"


# By name; a name's first word is the format.
WRITERS: dict[str, Write] = {
    "parquet by polars": _by_polars("parquet", "x.parquet"),
    "parquet by pandas": _by_pandas("parquet", "x.parquet"),
    "parquet by duckdb": _by_duckdb("x.parquet", "FORMAT parquet, COMPRESSION zstd"),
    "parquet of bytes": _bytes,
    "parquet of JSON": _json_typed,
    "parquet without nulls": _required(_parquet),
    "arrow without nulls": _required(_arrow_file(None)),
    "csv by polars": _by_polars("csv", "x.csv"),
    "csv by pandas": _by_pandas("csv", "x.csv.zst", index=False),
    "csv by duckdb": _by_duckdb("x.csv.gz", "FORMAT csv, COMPRESSION gzip"),
    "csv by Spark": _spark_csv,
    "csv with tabs": _by_pandas("csv", "x.tsv", index=False, sep="\t"),
    "csv in UTF-16": _utf16,
    "jsonl by polars": _by_polars("ndjson", "x.ndjson"),
    "jsonl by pandas": _by_pandas("json", "x.jsonl.zst", orient="records", lines=True),
    "jsonl by duckdb": _by_duckdb("x.jsonl", "FORMAT json"),
    "jsonl compressed": _packed_jsonl,
    "arrow by polars": _by_polars("ipc", "x.arrow", compression="zstd"),
    "arrow by pandas": _by_pandas("feather", "x.feather"),
    "arrow file": _arrow_file(None),
    "arrow file, compressed": _arrow_file("lz4"),
    "arrow stream": _arrow_stream,
    "arrow stream of dictionaries": _dictionaries,
    "huggingface, saved": _saved,
    "huggingface, saved in splits": _saved_splits,
    "huggingface, a tree of Parquet": _parquet_tree,
}
