"""What reading a format costs on one core, beside its library's own reading.

Ours finds the cuts, reads them and makes Python strings of the texts, with an integer carried; the
library reads the same two columns into its own table or objects. Both begin with the file in the
page cache, and take turns.
"""

import argparse
import gc
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from statistics import median

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from benchmarks.corpora import generated
from benchmarks.report import Report
from bertbatch.inputs.formats.reader import CutSize, reader_of
from bertbatch.inputs.rows import Types, read_units
from bertbatch.job.input import Input
from bertbatch.units import Source, Span, Unit

ROUNDS = 5
SIZE = CutSize(16 << 20, 16 << 20, 1 << 20)
COLUMNS = ["id", "text"]


class _Row(msgspec.Struct):
    id: int
    text: str


def written(folder: Path, mib: int) -> dict[str, Path]:
    """One corpus as a file of each format."""
    texts = list(_some(generated("mixed"), mib << 20))
    table = pa.table({"id": range(len(texts)), "text": texts, "other": ["x" * 20] * len(texts)})
    paths = {name: folder / f"x.{name}" for name in ("parquet", "csv", "jsonl", "arrow", "txt")}
    pq.write_table(table, paths["parquet"], row_group_size=100_000, compression="zstd")
    pa.csv.write_csv(table, paths["csv"])
    pl.DataFrame(table).write_ndjson(paths["jsonl"])
    with pa.ipc.new_file(paths["arrow"], table.schema) as file:
        file.write_table(table, max_chunksize=10_000)
    paths["txt"].write_text("\n".join(texts))
    return paths


def _some(texts: Iterator[str], size: int) -> Iterator[str]:
    while size > 0:
        for text in islice(texts, 1000):
            size -= len(text)
            yield text


LIBRARIES: dict[str, dict[str, Callable[[Path], object]]] = {
    "parquet": {"pyarrow": lambda path: pq.read_table(path, columns=COLUMNS)},
    "csv": {
        "pyarrow": lambda path: pa.csv.read_csv(
            path, convert_options=pa.csv.ConvertOptions(include_columns=COLUMNS)
        ),
        "polars": lambda path: pl.read_csv(path, columns=COLUMNS),
    },
    "jsonl": {
        "pyarrow": lambda path: pa.json.read_json(
            path,
            parse_options=pa.json.ParseOptions(
                explicit_schema=pa.schema([("id", pa.int64()), ("text", pa.string())]),
                unexpected_field_behavior="ignore",
            ),
        ),
        "polars": lambda path: pl.read_ndjson(path, schema={"id": pl.Int64, "text": pl.String}),
        "msgspec": lambda path: msgspec.json.Decoder(_Row).decode_lines(path.read_bytes()),
    },
    "arrow": {"pyarrow": lambda path: pa.ipc.open_file(pa.OSFile(str(path))).read_all()},
    "text": {"Python": lambda path: path.read_bytes().decode().split("\n")},
}


def ours(format_: str, path: Path) -> int:
    """All rows as the stages get them. Returns how many."""
    carry = [] if format_ == "text" else ["id"]
    options = Input(path=str(path), carry=carry)
    reader = reader_of(format_)
    info = path.stat()
    source = Source(path.name, str(path), info.st_size, f"{int(info.st_mtime * 1e6)}")
    kind = pa.string() if format_ == "csv" else pa.int64()
    types = Types(pa.schema([(name, kind) for name in carry]), pa.schema([]))
    units = [
        Unit(str(i), (Span(source, cut),))
        for i, cut in enumerate(reader.cut(source, SIZE, options))
    ]
    read = read_units(reader, options, types, units, {})
    return sum(len(chunk.texts) for _, chunks in read for chunk in chunks)


def _seconds(work: Callable[[], object]) -> float:
    gc.collect()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def compare(format_: str, path: Path, library: str) -> list[str]:
    """A row of the table."""
    read = LIBRARIES[format_][library]
    pairs = []
    for i in range(ROUNDS):
        if i % 2:
            theirs = _seconds(lambda: read(path))
            mine = _seconds(lambda: ours(format_, path))
        else:
            mine = _seconds(lambda: ours(format_, path))
            theirs = _seconds(lambda: read(path))
        pairs.append((mine, theirs))
    size = path.stat().st_size / 1e6
    ratios = sorted(theirs / mine for mine, theirs in pairs)
    return [
        format_,
        f"{size:,.0f} MB",
        f"{size / median(mine for mine, _ in pairs):,.0f} MB/s",
        library,
        f"{size / median(theirs for _, theirs in pairs):,.0f} MB/s",
        f"{median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=200, help="mebibytes of text")
    given = parser.parse_args()
    cores = os.sched_getaffinity(0)
    if len(cores) > 1:  # libraries count the cores when they are imported
        os.sched_setaffinity(0, {max(cores)})
        os.execv(sys.executable, sys.orig_argv)
    report = Report("Reading formats on one core")
    with tempfile.TemporaryDirectory() as folder:
        paths = written(Path(folder), given.mib)
        rows = [
            compare(format_, path, library)
            for ending, path in paths.items()
            for format_ in ["text" if ending == "txt" else ending]
            for library in LIBRARIES[format_]
        ]
    report.table(
        "Reading two columns, MB of the file per second",
        ["format", "file", "bertbatch", "library", "its rate", "our rate to its"],
        rows,
    )


if __name__ == "__main__":
    main()
