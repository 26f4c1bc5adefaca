"""Delta tables, by delta-rs.

The number of the last batch is the table's transaction version of this output. Delta refuses a
commit whose version has been taken since the table object was loaded; it does not if the table is
loaded anew for the write, so one object is checked and written to.
"""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, Transaction, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from bertbatch.errors import JobError, first_line
from bertbatch.exports.tables import Conflict
from bertbatch.storage import stores


class Delta:
    def __init__(self, url: str, output: str, schema: pa.Schema, by: tuple[str, ...]):
        self._app = f"bertbatch/{output}"
        self._url = url
        try:
            self._table = DeltaTable(url)
        except TableNotFoundError:
            # Created before the first append: creating by appending is not exact in a race.
            self._table = _created(url, schema, by)
        except DeltaError as error:
            raise JobError(f"{url} cannot be read as a Delta table: {first_line(error)}") from error
        there = tuple(self._table.metadata().partition_columns)
        if by and there != by:
            raise JobError(
                f"{url} is partitioned by {', '.join(there) or 'nothing'}; leave --partition-by "
                "out, or name a new table"
            )

    @property
    def id(self) -> str:
        return str(self._table.metadata().id)

    @property
    def batches(self) -> int:
        return self._table.transaction_version(self._app) or 0

    def append(self, batch: int, schema: pa.Schema, rows: Iterator[pa.Table]) -> None:
        before = self._table.version()
        reader = pa.RecordBatchReader.from_batches(
            schema, (part for table in rows for part in table.to_batches())
        )
        properties: dict[str, Any] = {"app_transactions": [Transaction(self._app, batch)]}
        try:
            write_deltalake(
                self._table, reader, mode="append", commit_properties=CommitProperties(**properties)
            )
        except Exception as error:
            if DeltaTable(self._url).version() > before:
                raise Conflict(first_line(error)) from error
            raise JobError(f"{self._url}: {first_line(error)}") from error


def _created(url: str, schema: pa.Schema, by: tuple[str, ...]) -> DeltaTable:
    try:
        # Another exporter may be creating the table at this moment.
        store, path = stores.connect(url)
        there = store.below(path)
        if there and not any("/_delta_log/" in name for name in there):
            raise JobError(f"{url} holds files, and is no Delta table; name a new folder")
        DeltaTable.create(url, schema=schema, mode="ignore", partition_by=list(by) or None)
        return DeltaTable(url)
    except JobError:
        raise
    except Exception as error:  # delta-rs raises Exception itself for types that Delta has not
        raise JobError(f"{url}: no Delta table can be made there: {first_line(error)}") from error
