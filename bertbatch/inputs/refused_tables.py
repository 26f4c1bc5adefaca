"""Files of Delta, Iceberg or Hudi tables that are given as such, which is refused.

A table's log says which of its files are valid; read as plain Parquet, deleted rows would come
back. So a table is refused by name, also if its files, a folder in it or a glob are given.
"""

import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import PurePosixPath

from bertbatch.errors import JobError
from bertbatch.inputs.paths import Found
from bertbatch.storage.stores import Store, is_glob

_ADVICE = {
    "a Delta": "give that folder as a whole",
    "an Iceberg": "give the table as iceberg://CATALOG/NAMESPACE.TABLE",
}
_MARKS = {"_delta_log": "a Delta", ".hoodie": "a Hudi"}
_ICEBERG = re.compile(r"(.*)/metadata/[^/]*\.metadata\.json")


def refuse_tables(given: str, store: Store, path: str, found: Found) -> None:
    """Raises JobError if some of the files belong to a table."""
    table = _below(found) or _above(store, _folders(path, found))
    if table:
        kind, folder = table
        raise JobError(
            f"input.path {given}: {folder} is {kind} table, whose files may hold rows that it no "
            f"longer has; {_ADVICE.get(kind, 'write its rows to a folder of Parquet files')}"
        )


def _below(found: Found) -> tuple[str, str] | None:
    for hidden in sorted(found.hidden):
        folder, _, name = hidden.rpartition("/")
        if name in _MARKS:
            return _MARKS[name], folder
    for file in found.files:
        match = _ICEBERG.fullmatch(file.path)
        if match and any(f.path.startswith(f"{match[1]}/data/") for f in found.files):
            return "an Iceberg", match[1]
    return None


def _folders(path: str, found: Found) -> set[str]:
    """The folders that may lie in a table and have not been listed themselves."""
    if is_glob(path):
        folders = {file.path.rpartition("/")[0] for file in found.files}
    else:
        single = [file.path for file in found.files] == [path]
        folders = {path.rpartition("/")[0] if single else path}
    above = {str(p) for folder in folders for p in (PurePosixPath(folder), *_parents(folder))}
    return {folder for folder in above if "=" not in folder.rpartition("/")[2]}  # a partition


def _parents(folder: str) -> Iterable[PurePosixPath]:
    return (parent for parent in PurePosixPath(folder).parents if str(parent) not in ("/", "."))


def _above(store: Store, folders: set[str]) -> tuple[str, str] | None:
    if "http" in store.protocol:  # has no folders to ask for
        return None
    with ThreadPoolExecutor(16) as pool:
        found = pool.map(lambda folder: _table_at(store, folder), sorted(folders))
        return next((table for table in found if table), None)


def _table_at(store: Store, folder: str) -> tuple[str, str] | None:
    for name, kind in _MARKS.items():
        if store.is_folder(f"{folder}/{name}"):
            return kind, folder
    parent, _, name = folder.rpartition("/")
    beside = _names(store, f"{parent}/metadata") if name == "data" else []
    return ("an Iceberg", parent) if any(n.endswith(".metadata.json") for n in beside) else None


def _names(store: Store, folder: str) -> list[str]:
    with suppress(OSError):
        return store.names(folder)
    return []
