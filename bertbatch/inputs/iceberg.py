"""Iceberg tables as input: the files of one snapshot, later those that came to it.

A version is a snapshot's sequence number. Snapshots that only replace files, as compaction does,
add no rows. Tables whose files alone do not tell their rows are refused: with deleted rows in
files of their own, or with columns that had other names.
"""

from functools import cached_property
from typing import Any

from pyiceberg.catalog import load_catalog
from pyiceberg.manifest import DataFile, ManifestEntryStatus
from pyiceberg.table import Table
from pyiceberg.table.snapshots import Operation, Snapshot, ancestors_of

from bertbatch.errors import JobError, first_line
from bertbatch.storage import stores
from bertbatch.units import Source


class IcebergTable:
    def __init__(self, given: str, options: dict[str, Any], version: int | None = None):
        self._given, self._options = given, options
        catalog, name = catalog_of(given)
        try:
            self._table: Table = load_catalog(catalog).load_table(name)
        except Exception as error:  # a catalog's client raises anything
            raise JobError(f"input.path {given}: cannot be reached: {first_line(error)}") from error
        self._check_names()
        now = self._table.current_snapshot()
        line = list(ancestors_of(now, self._table.metadata)) if now else []
        # The newest last.
        self._line: list[Snapshot] = [
            s for s in reversed(line) if version is None or _number(s) <= version
        ]

    @property
    def id(self) -> str:
        return str(self._table.metadata.table_uuid)

    @property
    def version(self) -> int:
        return _number(self._line[-1]) if self._line else 0

    def at(self, version: int) -> "IcebergTable":
        table = IcebergTable(self._given, self._options, version)
        if table.version != version:
            raise JobError(
                f"input.path {self._given}: the table no longer has the snapshot that was being "
                "planned; score it into a new output"
            )
        return table

    def files(self) -> list[str]:
        if not self._line:
            return []
        names = []
        for task in self._table.scan(snapshot_id=self._line[-1].snapshot_id).plan_files():
            if task.delete_files:
                self._refuse("has rows that are deleted by files of their own")
            names.append(self._name(task.file))
        return sorted(names)

    def added(self, since: int) -> list[str]:
        if since and since not in map(_number, self._line):
            raise JobError(
                f"input.path {self._given}: the table no longer has the snapshot that was scored "
                "last, so that it does not tell which rows are new; score it into a new output"
            )
        new: set[str] = set()
        for snapshot in self._line:
            if _number(snapshot) <= since:
                continue
            operation = snapshot.summary.operation if snapshot.summary else Operation.OVERWRITE
            if operation == Operation.REPLACE:
                continue
            came, went = self._changes(snapshot)
            if not went <= new:
                raise JobError(
                    f"input.path {self._given}: snapshot {snapshot.snapshot_id} of the table "
                    "deletes or changes rows that were planned; score it into a new output"
                )
            new = (new - went) | came
        return sorted(new)

    def source(self, name: str) -> Source:
        url = self.url(name)
        store, path = stores.connect(url, self._options)
        info = store.info(path)
        return Source(name, path if store.is_local else url, info.size, info.stamp)

    def url(self, name: str) -> str:
        url = name if "://" in name else f"{self._location}/{name}"
        return url.removeprefix("file://")

    @cached_property
    def _location(self) -> str:
        return self._table.location().rstrip("/")

    def _changes(self, snapshot: Snapshot) -> tuple[set[str], set[str]]:
        """The files that a snapshot adds, and those that it removes."""
        came: set[str] = set()
        went: set[str] = set()
        for manifest in snapshot.manifests(self._table.io):
            if manifest.added_snapshot_id != snapshot.snapshot_id:
                continue
            for entry in manifest.fetch_manifest_entry(self._table.io, discard_deleted=False):
                if entry.snapshot_id != snapshot.snapshot_id:
                    continue
                if entry.status == ManifestEntryStatus.ADDED:
                    came.add(self._name(entry.data_file))
                elif entry.status == ManifestEntryStatus.DELETED:
                    went.add(self._name(entry.data_file))
        return came, went

    def _name(self, file: DataFile) -> str:
        if file.content.value != 0:
            self._refuse("has rows that are deleted by files of their own")
        if file.file_format.value.upper() != "PARQUET":
            self._refuse(f"has files in {file.file_format.value}")
        return str(file.file_path).removeprefix(f"{self._location}/")

    def _check_names(self) -> None:
        names: dict[int, set[str]] = {}
        for schema in self._table.metadata.schemas:
            for field in schema.fields:
                names.setdefault(field.field_id, set()).add(field.name)
        for each in names.values():
            if len(each) > 1:
                both = " and ".join(sorted(each))
                self._refuse(f"has a column that was called {both}, so that its files differ")
        current = [field.name for field in self._table.schema().fields]
        known = {
            name: ids for name in current if (ids := [i for i, n in names.items() if name in n])
        }
        if any(len(ids) > 1 for ids in known.values()):
            self._refuse("has a column with the name of one that was dropped")

    def _refuse(self, why: str) -> None:
        raise JobError(
            f"input.path {self._given}: the Iceberg table {why}; write the rows to score to a "
            "folder of Parquet files, and give that"
        )


def _number(snapshot: Snapshot) -> int:
    """The sequence number, which tables of the first format do not have."""
    return int(snapshot.sequence_number or 0)


def catalog_of(url: str) -> tuple[str, str]:
    """The names of the catalog and of the table in it. Raises JobError."""
    catalog, _, name = url.removeprefix("iceberg://").partition("/")
    if not catalog or "." not in name:
        raise JobError(f"{url}: name a table as iceberg://CATALOG/NAMESPACE.TABLE")
    return catalog, name
