"""Records on the disk, by key: as many as the disk has room for, in little memory."""

from pathlib import Path

import numpy as np

BUFFER = 1 << 25  # bytes that are held until they are written


class Spill:
    """Records of one dtype, a file for each key. `keys` are those that there are."""

    def __init__(self, folder: Path, name: str, dtype: np.dtype):
        self._folder, self._name, self._dtype = folder, name, dtype
        self._held: dict[int, list[np.ndarray]] = {}
        self._bytes = 0
        self.keys: set[int] = set()

    def add(self, keys: np.ndarray, records: np.ndarray) -> None:
        """Adds records, each with its key."""
        order = np.argsort(keys, kind="stable")
        keys, records = keys[order], records[order]
        different, first = np.unique(keys, return_index=True)
        for key, some in zip(different.tolist(), np.split(records, first[1:]), strict=False):
            self._held.setdefault(key, []).append(some)
            self.keys.add(key)
        self._bytes += records.nbytes
        if self._bytes > BUFFER:
            self._write()

    def read(self, key: int) -> np.ndarray:
        """The records of a key, in the order in which they were added."""
        self._write()
        if key not in self.keys:
            return np.empty(0, self._dtype)
        return np.fromfile(self._path(key), self._dtype)

    def drop(self, key: int) -> None:
        """Deletes the records of a key."""
        self._write()
        self.keys.discard(key)
        self._path(key).unlink(missing_ok=True)

    def _write(self) -> None:
        for key, some in self._held.items():
            with open(self._path(key), "ab") as file:
                np.concatenate(some).tofile(file)
        self._held, self._bytes = {}, 0

    def _path(self, key: int) -> Path:
        return self._folder / f"{self._name}-{key}"
