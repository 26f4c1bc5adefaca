"""The rows of an output with the largest or smallest figures, kept while it is read."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa


class Top:
    """The `size` rows with the largest keys; of equal keys the first ones read."""

    def __init__(self, size: int):
        self._size = size
        self._keys = np.zeros(0)
        self._rows: list[dict[str, Any]] = []

    def offer(self, keys: np.ndarray, table: pa.Table, where: np.ndarray | None = None) -> None:
        """Keys float [rows] of a table's rows; `where` bool [rows] are those that count.

        Rows whose key is NaN do not count.
        """
        counts = ~np.isnan(keys) if where is None else where & ~np.isnan(keys)
        if len(self._keys) == self._size:
            counts = counts & (keys > self._keys[-1])
        at = np.flatnonzero(counts)
        at = at[np.argsort(-keys[at], kind="stable")][: self._size]
        if not len(at):
            return
        keys = np.concatenate([self._keys, keys[at]])
        rows = [*self._rows, *table.take(pa.array(at)).to_pylist()]
        order = np.argsort(-keys, kind="stable")[: self._size]
        self._keys, self._rows = keys[order], [rows[i] for i in order]

    @property
    def rows(self) -> Sequence[dict[str, Any]]:
        return self._rows
