"""Iceberg tables, by pyiceberg, in the catalogs of its own configuration.

The number of the last batch is a property of the table, set in the transaction that adds the rows.
pyiceberg by default tries a commit again on top of what others have committed, without another
look: here it does not, so that two exporters cannot both commit one batch.
"""

import time
from collections.abc import Iterator
from contextlib import suppress

import pyarrow as pa
from pyiceberg.catalog import load_catalog
from pyiceberg.exceptions import (
    CommitFailedException,
    NoSuchNamespaceError,
    NoSuchTableError,
    TableAlreadyExistsError,
)
from pyiceberg.table import Table as IcebergTable

from bertbatch.errors import JobError, first_line
from bertbatch.exports.tables import Conflict
from bertbatch.inputs.iceberg import catalog_of

PARTITION_SECONDS = 5.0  # that whoever creates a table may need to partition it
_RETRIES = "commit.retry.num-retries"


class Iceberg:
    def __init__(self, url: str, output: str, schema: pa.Schema, by: tuple[str, ...]):
        self._property = f"bertbatch.{output}"
        self._url = url
        catalog, self._name = catalog_of(url)
        try:
            self._catalog = load_catalog(catalog)
            self._table = self._loaded(schema, by)
        except JobError:
            raise
        except NoSuchNamespaceError as error:
            raise JobError(f"{url}: there is no such namespace; create it first") from error
        except Exception as error:  # a catalog's client raises anything
            raise JobError(f"{url} cannot be reached: {first_line(error)}") from error
        there = tuple(
            self._table.schema().find_column_name(f.source_id) for f in self._table.spec().fields
        )
        if by and there != by:
            raise JobError(
                f"{url} is partitioned by {', '.join(map(str, there)) or 'nothing'}; leave "
                "--partition-by out, or name a new table"
            )

    @property
    def id(self) -> str:
        return str(self._table.metadata.table_uuid)

    @property
    def batches(self) -> int:
        return int(self._table.properties.get(self._property, 0))

    def append(self, batch: int, schema: pa.Schema, rows: Iterator[pa.Table]) -> None:
        table = pa.concat_tables([schema.empty_table(), *rows])
        before = self._table.metadata_location
        self._table.metadata.properties[_RETRIES] = "0"  # in this process alone
        try:
            with self._table.transaction() as transaction:
                transaction.append(table)
                transaction.set_properties({self._property: str(batch)})
        except Exception as error:  # each catalog has its own for a commit that came second
            if self._catalog.load_table(self._name).metadata_location != before:
                raise Conflict(first_line(error)) from error
            raise JobError(f"{self._url}: {first_line(error)}") from error

    def _loaded(self, schema: pa.Schema, by: tuple[str, ...]) -> IcebergTable:
        """The table, which is created if there is none; with partitions, in a second commit."""
        created = False
        try:
            table = self._catalog.load_table(self._name)
        except NoSuchTableError:
            try:
                table = self._catalog.create_table(self._name, schema)
                created = True
            except TableAlreadyExistsError:
                table = self._catalog.load_table(self._name)
        end = time.monotonic() + PARTITION_SECONDS
        while by and not table.spec().fields and time.monotonic() < end:
            if created or table.current_snapshot() is None:
                with suppress(CommitFailedException), table.update_spec() as spec:
                    for name in by:
                        spec.add_identity(name)
            else:  # another exporter has just created it
                time.sleep(0.1)
            table = self._catalog.load_table(self._name)
        return table
