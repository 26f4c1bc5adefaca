"""Folders that Hugging Face's `save_to_disk` writes: which of their files are the dataset.

Such a folder has Arrow files of other kinds, too, such as cached results of `map`; its
`state.json` names those that count. A folder of several splits has one such folder for each.
"""

import json
from dataclasses import replace

from bertbatch.errors import JobError
from bertbatch.inputs.paths import Found
from bertbatch.storage.stores import FileInfo, Store

_STATE, _INFO = "state.json", "dataset_info.json"


def saved_files(given: str, store: Store, found: Found) -> Found:
    """The files found, without those in a dataset's folder that are not of the dataset.

    Raises JobError if a file of a dataset is not there.
    """
    files = {file.path: file for file in found.files}
    for folder in _folders(found):
        names = _data_files(given, store, folder)
        wanted = {f"{folder}/{name}" for name in names}
        if missing := sorted(wanted - files.keys()):
            raise JobError(
                f"input.path {given}: {folder}/{_STATE} names {missing[0]}, which is not there; "
                "save the dataset again"
            )
        inside = [path for path in files if path.rpartition("/")[0] == folder]
        for path in set(inside) - wanted:
            del files[path]
            if not path.endswith((_STATE, _INFO)):
                found.left_out["a file that is not of the dataset"] += 1
    return replace(found, files=list(files.values()))


def _folders(found: Found) -> list[str]:
    paths = {file.path for file in found.files}
    folders = (_folder(file) for file in found.files if file.path.endswith(f"/{_STATE}"))
    return [folder for folder in folders if f"{folder}/{_INFO}" in paths]


def _folder(file: FileInfo) -> str:
    return file.path.rpartition("/")[0]


def _data_files(given: str, store: Store, folder: str) -> list[str]:
    """The names of a dataset's files. Raises JobError if its state cannot be used."""
    try:
        state = json.loads(store.read(f"{folder}/{_STATE}"))
        names = [entry["filename"] for entry in state["_data_files"]]
        if not all(isinstance(name, str) and name and "/" not in name for name in names):
            raise ValueError("it names files elsewhere")
        mapped = state.get("_indices_data_files") or state.get("_indices_files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise JobError(f"input.path {given}: {folder}/{_STATE} cannot be used: {error}") from error
    if mapped:
        raise JobError(
            f"input.path {given}: the dataset in {folder} is a selection of its rows; call "
            "flatten_indices() on it and save it again"
        )
    return names
