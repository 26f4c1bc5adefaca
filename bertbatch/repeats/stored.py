"""Stored answers to texts that several units have: a file for each unit of such texts.

A file is Parquet, for its checksums, by another name, since programs may read every Parquet file of
an output. It has a row for each text: its hash, the reason if it cannot be scored, and else every
column that is made of the model's answer. A file that is missing or damaged costs work, never an
answer.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertbatch.output.folder import Output
from bertbatch.repeats.hashes import KIND
from bertbatch.storage.retry import retry
from bertbatch.storage.stores import as_os_errors

log = logging.getLogger("bertbatch")

FOLDER, ENDING = "_bertbatch/texts", ".answers"
HASH, REASON = "hash", "reason"
CACHE_BYTES = 256 << 20  # of answers that a process keeps

_DAMAGE = (OSError, ValueError, KeyError, pa.ArrowException)


def write_answers(
    output: Output, name: str, scored: pa.Table, hashes: pa.Array, reasons: dict[int, str]
) -> None:
    """Stores the answers to some texts, unless another run has.

    `scored` has a row for each text without a reason; `reasons` are by the text's place.
    """
    kept = np.ones(len(hashes), bool)
    kept[list(reasons)] = False
    good = scored.append_column(HASH, hashes.filter(pa.array(kept)))
    bad = pa.table(
        {
            HASH: hashes.filter(pa.array(~kept)),
            REASON: pa.array([reasons[i] for i in sorted(reasons)], pa.string()),
        }
    )
    table = pa.concat_tables([good, bad], promote_options="default")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", write_page_checksum=True)
    data = sink.getvalue().to_pybytes()

    def create() -> None:
        with suppress(FileExistsError):
            output.store.create(_path(output, name), data)

    retry(create)


def stored_hashes(output: Output) -> Iterator[tuple[str, pa.Array]]:
    """The name of each file, with the hashes of its texts."""
    for file in output.store.names(output.at(FOLDER)):
        name = file.removesuffix(ENDING)
        table = _read(output, name, [HASH])
        if table is not None:
            yield name, table[HASH].combine_chunks()


def find_answers(
    output: Output, names: Sequence[str], file: np.ndarray, hashes: pa.Array
) -> tuple[np.ndarray, pa.Table]:
    """The stored answers to texts: which have one, bool [texts], and these in order.

    `file` int [texts] says in which of the named files each is. No columns, if there is none.
    """
    places, tables = [], []
    for number, name in enumerate(names):
        of_file = np.flatnonzero(file == number)
        table = _cache.get(output, name)
        if table is None:
            continue
        row = pc.index_in(hashes.take(pa.array(of_file)), value_set=table[HASH])
        there = row.is_valid().to_numpy(zero_copy_only=False)
        places.append(of_file[there])
        tables.append(table.take(row.drop_null()))
    found = np.zeros(len(hashes), bool)
    if not tables:
        return found, pa.table({})
    place = np.concatenate(places)
    found[place] = True
    answers = pa.concat_tables(tables, promote_options="default")
    return found, answers.take(pa.array(np.argsort(place)))


def _path(output: Output, name: str) -> str:
    return output.at(FOLDER, f"{name}{ENDING}")


def _read(output: Output, name: str, columns: list[str] | None = None) -> pa.Table | None:
    """A file's rows, or None if it is not there or cannot be used."""
    path = _path(output, name)
    try:
        with as_os_errors(), output.store.open(path) as file:
            content = pq.ParquetFile(file, page_checksum_verification=True)
            table = content.read(columns)
        if table.schema.field(HASH).type != KIND:
            raise ValueError("it has other columns")
    except FileNotFoundError:
        return None
    except _DAMAGE as error:
        log.warning("%s cannot be used, its texts are scored again: %s", path, error)
        return None
    return table


class _Cache:
    """The answers that were used last, up to a number of bytes."""

    def __init__(self, limit: int):
        self._limit, self._bytes = limit, 0
        self._tables: OrderedDict[str, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, output: Output, name: str) -> pa.Table | None:
        path = _path(output, name)
        with self._lock:
            if path in self._tables:
                self._tables.move_to_end(path)
                return self._tables[path]
        table = _read(output, name)
        if table is None:
            return None
        with self._lock:
            if path not in self._tables:
                self._tables[path] = table
                self._bytes += table.nbytes
            while self._bytes > self._limit and len(self._tables) > 1:
                _, old = self._tables.popitem(last=False)
                self._bytes -= old.nbytes
        return table


_cache = _Cache(CACHE_BYTES)
