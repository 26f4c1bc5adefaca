"""Delta tables as input: the files of one version, later those that came to it.

The first run reads the files of the newest version. A later one reads the files that commits since
then have added; a commit that only rewrites rows, as compaction does, adds none. Files are read
from storage also when a later version no longer names them, until somebody vacuums the table.
"""

import json
from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any
from urllib.parse import unquote

from bertbatch.errors import JobError, first_line
from bertbatch.inputs.paths import find
from bertbatch.storage.stores import FileInfo, Store, url_of
from bertbatch.units import Source


class DeltaTable:
    """A table's version, by default the newest.

    Raises JobError if its files alone do not tell its rows.
    """

    def __init__(self, given: str, store: Store, path: str, version: int | None = None):
        self._given, self._store, self._path = given, store, path
        import deltalake

        url = path if store.is_local else store.fs.unstrip_protocol(path)
        try:
            self._table = deltalake.DeltaTable(
                url, version=version, storage_options=_options(store.options)
            )
            self._metadata = self._table.metadata()
            marked = self._table.deletion_vectors().read_all().num_rows
        except Exception as error:  # delta-rs and its storages have many
            reason = first_line(error)
            raise JobError(
                f"input.path {given}: {path} is a Delta table that cannot be read: {reason}"
            ) from error
        mapping = self._metadata.configuration.get("delta.columnMapping.mode", "none")
        if mapping != "none":
            self._refuse(f"maps its columns by {mapping}, so that files have other names for them")
        if marked:
            self._refuse("marks rows of its files as deleted (deletion vectors)")

    @property
    def id(self) -> str:
        return str(self._metadata.id)

    @property
    def version(self) -> int:
        return int(self._table.version())

    def at(self, version: int) -> "DeltaTable":
        return DeltaTable(self._given, self._store, self._path, version)

    def files(self) -> list[str]:
        actions = self._table.get_add_actions().to_struct_array().to_pylist()
        return sorted(self._checked(action["path"]) for action in actions)

    def added(self, since: int) -> list[str]:
        new: set[str] = set()
        for version in range(since + 1, self.version + 1):
            for action in self._commit(version):
                if (add := action.get("add")) and add["dataChange"]:
                    if add.get("deletionVector"):
                        self._refuse("marks rows of its files as deleted (deletion vectors)")
                    new.add(self._checked(add["path"]))
                removed = action.get("remove")
                if removed and removed["dataChange"]:
                    path = unquote(removed["path"])
                    if path not in new:
                        raise JobError(
                            f"input.path {self._given}: version {version} of the table deletes or "
                            "changes rows that were planned; score it into a new output"
                        )
                    new.discard(path)
        return sorted(new)

    def source(self, name: str) -> Source:
        info = self._stored.get(name)
        if info is None:
            raise FileNotFoundError(name)
        return Source(name, self.url(name), info.size, info.stamp)

    def url(self, name: str) -> str:
        return url_of(self._given, self._store, f"{self._path}/{name}")

    @cached_property
    def _stored(self) -> dict[str, FileInfo]:
        """What is in the folder, by its path relative to it."""
        found = find(self._store, self._path).files
        return {file.path.removeprefix(self._path).lstrip("/"): file for file in found}

    def _commit(self, version: int) -> Iterator[Mapping[str, Any]]:
        path = f"{self._path}/_delta_log/{version:020d}.json"
        try:
            lines = self._store.read(path).splitlines()
        except FileNotFoundError as error:
            raise JobError(
                f"input.path {self._given}: the table's log no longer has version {version}, so "
                "that it does not tell which rows are new; score it into a new output"
            ) from error
        return (json.loads(line) for line in lines if line.strip())

    def _checked(self, path: str) -> str:
        """A file's path below the folder. Raises JobError if it does not name its partitions."""
        path = unquote(path)
        folders = {folder.partition("=")[0] for folder in path.split("/")[:-1]}
        if "://" in path or path.startswith("/"):
            self._refuse("has files outside of its folder")
        if not set(self._metadata.partition_columns) <= folders:
            self._refuse("has files whose folders do not name their partitions")
        return path

    def _refuse(self, why: str) -> None:
        raise JobError(
            f"input.path {self._given}: the Delta table {why}; write the rows to score to a folder "
            "of Parquet files, and give that"
        )


def _options(options: Mapping[str, Any]) -> dict[str, str]:
    """fsspec's options for S3 as delta-rs names them."""
    client = options.get("client_kwargs") or {}
    names = {
        "AWS_ACCESS_KEY_ID": options.get("key"),
        "AWS_SECRET_ACCESS_KEY": options.get("secret"),
        "AWS_SESSION_TOKEN": options.get("token"),
        "AWS_REGION": client.get("region_name"),
        "AWS_ENDPOINT_URL": options.get("endpoint_url") or client.get("endpoint_url"),
    }
    given = {name: str(value) for name, value in names.items() if value}
    if given.get("AWS_ENDPOINT_URL", "").startswith("http:"):
        given["AWS_ALLOW_HTTP"] = "true"
    return given
