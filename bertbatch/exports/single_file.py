"""An export into one file, which is written anew as a whole, then put in place in one step.

The output remembers what it wrote. A file that is not that is left alone.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.parquet as pq

from bertbatch.errors import JobError
from bertbatch.exports.encode import ENCODERS
from bertbatch.exports.folder import different
from bertbatch.exports.rows import ExportedRows, pieces
from bertbatch.output.folder import Output
from bertbatch.output.records import reading, to_json
from bertbatch.storage.retry import create_once, retry
from bertbatch.storage.stores import Store, as_os_errors
from bertbatch.units import digest

GROUP_ROWS, GROUP_BYTES = 100_000, 64 << 20


@dataclass(frozen=True)
class SingleFile:
    """A file on a store."""

    store: Store
    path: str
    format: str

    def write(
        self, parts: list[str], rows: ExportedRows, settings: Mapping[str, Any]
    ) -> int | None:
        """Writes all parts' rows. Returns how many, or None if the file has them already.

        Raises JobError if the file holds anything else.
        """
        output, wanted = rows.output, digest([sorted(parts), dict(settings)])
        there = self._there()
        if there is not None and not self._known(output, there):
            raise JobError(
                f"{self.path} is not what an export of {output.path} wrote; delete it, or name "
                "another file"
            )
        if there is not None:
            self._check_settings(output, there, settings)
            if self._known(output, there, wanted):
                return None
        local = self.store.is_local
        if local:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
        # Beside its target, so that it can be renamed to it.
        folder = str(Path(self.path).parent) if local else None
        handle, temporary = tempfile.mkstemp(prefix=".bertbatch-", suffix=".tmp", dir=folder)
        try:
            with os.fdopen(handle, "w+b") as file:
                count = self._content(file, parts, rows)
                file.flush()
                os.fsync(file.fileno())
                file.seek(0)
                content = file_digest(file, "sha256").hexdigest()
                self._remember(output, content, wanted, settings)
            self._put(temporary)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)
        return count

    def _content(self, file: BinaryIO, parts: list[str], rows: ExportedRows) -> int:
        tables = (rows.read(units) for units in rows.ordered(parts))
        groups = pieces(tables, GROUP_ROWS, GROUP_BYTES)
        if self.format == "parquet":
            return _parquet(file, groups, rows.schema)
        count, encode = 0, ENCODERS[self.format]
        file.write(encode(rows.schema.empty_table()))
        for table in groups:
            file.write(encode(table, header=False))
            count += table.num_rows
        return count

    @as_os_errors()
    def _put(self, temporary: str) -> None:
        if self.store.is_local:
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, self.path)
            return
        retry(lambda: self.store.fs.put_file(temporary, self.path))

    def _there(self) -> str | None:
        """The digest of what is at the path."""
        with suppress(FileNotFoundError), self.store.open(self.path) as file:
            return file_digest(cast(BufferedReader, file), "sha256").hexdigest()
        return None

    def _records(self, output: Output) -> str:
        return output.at("_bertbatch", "exports", f"file-{digest(self.path)[:20]}")

    def _known(self, output: Output, content: str, wanted: str | None = None) -> bool:
        """Whether the output wrote this content, of the wanted rows if that is said."""
        names = output.store.names(self._records(output))
        return any(name.startswith(f"{content}-{wanted or ''}") for name in names)

    def _check_settings(self, output: Output, content: str, settings: Mapping[str, Any]) -> None:
        """Raises JobError if what is there was exported with other settings."""
        for name in output.store.names(self._records(output)):
            if name.startswith(f"{content}-"):
                path = f"{self._records(output)}/{name}"
                with reading(path):
                    then = json.loads(output.store.read(path)).get("settings", settings)
                if then == dict(settings):
                    return
                raise JobError(
                    f"{self.path} is an export {different(then, settings)}; delete it, or name "
                    "another file"
                )

    def _remember(
        self, output: Output, content: str, wanted: str, settings: Mapping[str, Any]
    ) -> None:
        path = f"{self._records(output)}/{content}-{wanted}.json"
        data = to_json({"target": self.path, "settings": dict(settings)})
        create_once(lambda: output.store.create(path, data))


def _parquet(file: BinaryIO, groups: Iterator[pa.Table], schema: pa.Schema) -> int:
    count = 0
    options: dict[str, Any] = {"compression": "zstd", "write_page_checksum": True}
    with pq.ParquetWriter(file, schema, **options) as writer:
        for table in groups:
            writer.write_table(table)
            count += table.num_rows
    return count


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
