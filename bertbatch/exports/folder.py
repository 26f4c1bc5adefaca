"""An export into a folder: numbered files, which are never rewritten.

The folder's record says which output it is of. Each batch has a record there once all of its
files are whole; a batch without one is written again, under the same names and with the same rows.
"""

import json
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from typing import Any

import pyarrow as pa

from bertbatch.errors import JobError
from bertbatch.exports.batches import Batches, output_id
from bertbatch.exports.partitions import partitioned
from bertbatch.exports.rows import ExportedRows, pieces
from bertbatch.output.records import count, fits, reading, row, text, to_json
from bertbatch.storage.retry import create_once, retry
from bertbatch.storage.stores import Store
from bertbatch.units import digest

RECORDS = "_bertbatch_export"
FILE_ROWS, FILE_BYTES = 1_000_000, 256 << 20  # a file is closed above these
_TARGET = {"id": text, "output": text, "settings": {"*": lambda value: True}}
_BATCH = {"rows": count, "parts": text, "files": {"*": row(count, text)}}


@dataclass(frozen=True)
class Folder:
    """A folder on a store, and how rows become a file of it."""

    store: Store
    path: str
    ending: str
    encode: Callable[[pa.Table], bytes]
    by: tuple[str, ...]  # partition columns

    def begin(self, rows: ExportedRows, settings: Mapping[str, Any]) -> Batches:
        """The batches of this folder. Raises JobError if it is another output's, or no export's."""
        path = f"{self.path}/{RECORDS}/target.json"
        mine = {"output": output_id(rows.output), "settings": dict(settings)}
        try:
            record = self._record(path, _TARGET)
        except NotADirectoryError as error:
            raise JobError(f"{self.path} is a file; name a folder, or a new file") from error
        if record is None:
            self._check_empty()
            data = to_json({"id": uuid.uuid4().hex, **mine})
            create_once(lambda: self.store.create(path, data))
            record = self._record(path, _TARGET)
        assert record is not None
        for key, value in mine.items():
            if record[key] != value:
                of = "of another output"
                what = of if key == "output" else different(record["settings"], settings)
                raise JobError(f"{self.path} is an export {what}; name a new target")
        batches = Batches(rows.output, record["id"])
        written = len(self.store.names(f"{self.path}/{RECORDS}")) - 1
        if written > len(batches.all()):
            raise JobError(_restored(self.path, rows.output.path))
        return batches

    def write(self, number: int, parts: list[str], rows: ExportedRows) -> int:
        """Writes a batch, unless it is there. Returns how many rows it adds.

        Raises JobError if a file of it is not what was written.
        """
        path = f"{self.path}/{RECORDS}/{number:08d}.json"
        done = self._record(path, _BATCH)
        if done is not None:
            if done["parts"] != digest(parts):
                raise JobError(_restored(self.path, rows.output.path))
            self._check(done["files"])
            return 0
        files: dict[str, list[Any]] = {}
        total = 0
        for name, content, held in self._files(number, parts, rows):
            retry(partial(self.store.replace, f"{self.path}/{name}", content))
            files[name] = [len(content), sha256(content).hexdigest()]
            total += held
        data = to_json({"rows": total, "parts": digest(parts), "files": files})
        create_once(lambda: self.store.create(path, data))  # or another exporter did
        return total

    def _files(
        self, number: int, parts: list[str], rows: ExportedRows
    ) -> Iterator[tuple[str, bytes, int]]:
        """Each file's name below the folder, its content and how many rows it has."""
        tables = (rows.read(units) for units in rows.ordered(parts))
        for i, piece in enumerate(pieces(tables, FILE_ROWS, FILE_BYTES)):
            for folder, table in partitioned(piece, self.by):
                name = f"{number:06d}-{i:04d}{self.ending}"
                path = f"{folder}/{name}" if folder else name
                yield path, self.encode(table), table.num_rows

    def _check(self, files: Mapping[str, tuple[int, str]]) -> None:
        for name, (size, _) in files.items():
            try:
                found = self.store.info(f"{self.path}/{name}").size
            except FileNotFoundError:
                found = -1
            if found != size:
                what = "is gone" if found < 0 else f"has {found:,} bytes instead of {size:,}"
                raise JobError(f"{self.path}/{name}, which was exported, {what}; export anew")

    def _check_empty(self) -> None:
        if names := self.store.below(self.path):
            raise JobError(f"{self.path} holds {names[0]}, which is no export; name a new folder")

    def _record(self, path: str, shape: Any) -> dict[str, Any] | None:
        try:
            data = self.store.read(path)
        except FileNotFoundError:
            return None
        with reading(path):
            record = json.loads(data)
            if not fits(record, shape):
                raise ValueError("it is not the record of an export")
        return dict(record)


def different(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """With which settings an export was made, where they are not those of now."""
    keys = [key for key in {**then, **now} if then.get(key) != now.get(key)]
    return f"with other settings ({', '.join(sorted(keys))})"


def _restored(target: str, output: str) -> str:
    return (
        f"{target} has batches of {output} that this does not know: the output was copied or "
        "restored since; export to a new target"
    )
