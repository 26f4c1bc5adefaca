"""Stored answers to texts that several units have: a file for each unit of such texts.

A file is its own SHA-256 and then Parquet. It has a row for each text: its hash, the reason if it
cannot be scored, and else every column that is made of the model's answer. A file that is missing,
damaged or not as expected costs work, never an answer.
"""

import logging
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertbatch.output.folder import Output
from bertbatch.repeats.hashes import KIND
from bertbatch.storage.retry import create_once, is_permanent, retry
from bertbatch.units import Repeats

log = logging.getLogger("bertbatch")

FOLDER, ENDING = "_bertbatch/texts", ".answers"
HASH, REASON = "hash", "reason"
CACHE_BYTES = 256 << 20  # of answers that a process keeps
_DIGEST = 32  # bytes
_DAMAGE = (OSError, ValueError, KeyError, pa.ArrowException)


def write_answers(
    output: Output, name: str, scored: pa.Table, hashes: pa.Array, reasons: dict[int, str]
) -> None:
    """Stores the answers to some texts under a name of their own.

    `scored` has a row for each text without a reason; `reasons` are by the text's place.
    """
    kept = np.ones(len(hashes), bool)
    kept[list(reasons)] = False
    nullable = [field.with_nullable(True) for field in scored.schema]  # in texts without an answer
    scored = scored.cast(pa.schema(nullable))
    good = scored.append_column(HASH, hashes.filter(pa.array(kept)))
    good = good.append_column(REASON, pa.nulls(len(good), pa.string()))
    bad = pa.table(
        {
            HASH: hashes.filter(pa.array(~kept)),
            REASON: pa.array([reasons[i] for i in sorted(reasons)], pa.string()),
        }
    )
    table = pa.concat_tables([good, bad], promote_options="default")
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    content = sink.getvalue().to_pybytes()
    data = sha256(content).digest() + content
    create_once(lambda: output.store.create(_path(output, name), data))


def stored_hashes(output: Output, fields: Sequence[pa.Field]) -> Iterator[tuple[str, pa.Array]]:
    """The name of each file of earlier runs, with the hashes of the texts that have an answer.

    Not of those with a reason: what failed once is tried again by the next run.
    """

    def hashes(file: str) -> tuple[str, pa.Array] | None:
        name = file.removesuffix(ENDING)
        table = _read(output, name, fields)
        if table is None:
            return None
        answered = table[HASH].filter(table[REASON].is_null()).combine_chunks()
        return name, pa.concat_arrays([answered]) if len(answered) else pa.array([], KIND)

    with ThreadPoolExecutor(4) as pool:
        files = output.store.names(output.at(FOLDER))
        yield from filter(None, pool.map(hashes, files))


def find_answers(
    output: Output, repeats: Repeats, hashes: pa.Array, fields: Sequence[pa.Field]
) -> tuple[np.ndarray, pa.Table]:
    """The stored answers to a unit's texts: which have one, bool [texts], and these in order.

    `fields` are the columns that answers must have. No columns, if there are no answers.
    """
    known = pc.index_in(hashes, value_set=repeats.hashes).to_numpy(zero_copy_only=False)
    file = np.where(np.isnan(known), -1, repeats.file[np.nan_to_num(known).astype(np.int64)])
    places, tables = [], []
    for number, name in enumerate(repeats.files):
        of_file = np.flatnonzero(file == number)
        table = _cache.get(output, name, fields)
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
    return found, pa.concat_tables(tables).take(pa.array(np.argsort(place)))


def _path(output: Output, name: str) -> str:
    return output.at(FOLDER, f"{name}{ENDING}")


def _read(output: Output, name: str, fields: Sequence[pa.Field]) -> pa.Table | None:
    """A file's rows, or None if it is not there or cannot be used."""
    path = _path(output, name)
    try:
        data = retry(lambda: output.store.read(path), _is_gone)
        if sha256(data[_DIGEST:]).digest() != data[:_DIGEST]:
            raise ValueError("it is damaged")
        table = pq.read_table(pa.BufferReader(data[_DIGEST:]))
        schema = [pa.field(HASH, KIND), pa.field(REASON, pa.string()), *fields]
        table = table.select([field.name for field in schema])
        if table.schema.types != [field.type for field in schema]:
            raise ValueError("its columns have other types")
        answered = table.filter(table[REASON].is_null())
        if any(answered[f.name].null_count for f in schema if not f.nullable):
            raise ValueError("it lacks answers")
    except FileNotFoundError:
        return None
    except _DAMAGE as error:
        log.warning("%s cannot be used, its texts are scored again: %s", path, error)
        return None
    return table


def _is_gone(error: Exception) -> bool:
    """Whether no further try would find a file."""
    return isinstance(error, FileNotFoundError) or is_permanent(error)


class _Cache:
    """The answers that were used last, up to a number of bytes."""

    def __init__(self, limit: int):
        self._limit, self._bytes = limit, 0
        self._tables: OrderedDict[str, pa.Table] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, output: Output, name: str, fields: Sequence[pa.Field]) -> pa.Table | None:
        with self._lock:  # names are of one run alone
            if name in self._tables:
                self._tables.move_to_end(name)
                return self._tables[name]
        table = _read(output, name, fields)
        if table is None:
            return None
        with self._lock:
            if name not in self._tables:
                self._tables[name] = table
                self._bytes += table.nbytes
            while self._bytes > self._limit and len(self._tables) > 1:
                _, old = self._tables.popitem(last=False)
                self._bytes -= old.nbytes
        return table


_cache = _Cache(CACHE_BYTES)
