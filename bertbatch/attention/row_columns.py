"""The attention statistics of each row, as output columns.

They can be read without this package.

`attn_<statistic>`: FixedSizeList<float32>[layers · heads], layer-major, with the shape in the
field's metadata, and how far keys may be from a query where a layer attends to near ones only;
null for a row that is not in the sample, and where the statistic is not
defined. `attn_queries`: how many query tokens are behind each statistic's mean.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from bertbatch.engines.scoring import Scored, Statistics
from bertbatch.errors import JobError
from bertbatch.job.models import column_of
from bertbatch.job.schema import Attention
from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Parts, places

if TYPE_CHECKING:
    import pandas as pd


def attention_fields(attention: Attention | None, spec: ModelSpec) -> list[pa.Field]:
    if attention is None or not attention.per_row:
        return []
    shape = {
        "layers": str(spec.layers),
        "heads": str(spec.heads),
        "order": "layer-major",
        "queries": attention.queries,
    }
    if any(reach is not None for reach in spec.reach):
        shape["reach"] = ",".join("" if reach is None else str(reach) for reach in spec.reach)
    lists = pa.list_(pa.float32(), spec.layers * spec.heads)
    counts = pa.struct([pa.field(name, pa.int32()) for name in attention.statistics])
    return [
        *(pa.field(f"attn_{name}", lists, metadata=shape) for name in attention.statistics),
        pa.field("attn_queries", counts),
    ]


def attention_columns(fields: Sequence[pa.Field], statistics: Statistics) -> list[pa.Array]:
    """One array for each of the fields of `attention_fields`."""
    if not fields:
        return []
    sampled = statistics.text >= 0
    values, counts = statistics.values[statistics.text], statistics.counts[statistics.text]
    columns = []
    for k, field in enumerate(fields[:-1]):
        absent = ~sampled | (counts[:, k] == 0)
        flat = np.where(absent[:, None], 0, values[:, k]).ravel()
        size = field.type.list_size
        columns.append(pa.FixedSizeListArray.from_arrays(flat, size, mask=pa.array(absent)))
    each = [pa.array(counts[:, k]) for k in range(len(fields) - 1)]
    named = list(fields[-1].type)
    columns.append(pa.StructArray.from_arrays(each, fields=named, mask=pa.array(~sampled)))
    return columns


def of_pieces(pieces: Sequence[Scored], kept: np.ndarray, shape: tuple[int, int]) -> Statistics:
    """The statistics of all of a unit's sequences; `shape` is (statistics, layers · heads).

    `pieces` hold, in order, the sequences that are kept, bool [sequences].
    """
    values, counts = [np.zeros((1, *shape), np.float32)], [np.zeros((1, shape[0]), np.int32)]
    texts = []
    size = 1  # a first text without rows, so that there is a text if no row is sampled
    for piece in pieces:
        if piece.statistics is None:
            texts.append(np.full(len(piece.answers), -1))
            continue
        values.append(piece.statistics.values)
        counts.append(piece.statistics.counts)
        text = piece.statistics.text
        texts.append(np.where(text < 0, -1, text + size))
        size += len(values[-1])
    text = np.full(len(kept), -1)
    if texts:
        text[kept] = np.concatenate(texts)
    return Statistics(np.concatenate(values), np.concatenate(counts), text)


def of_rows(statistics: Statistics, parts: Parts) -> Statistics:
    """The statistics of rows of several sequences: means weighted by their query tokens.

    A row is in the sample with all of its sequences, or with none.
    """
    text = statistics.text[parts.offsets[:-1]]
    several = np.flatnonzero((text >= 0) & (parts.counts > 1))
    if not len(several):
        return replace(statistics, text=text)
    some = parts.take(several)
    there = statistics.text[places(parts.offsets, several)]
    counts = statistics.counts[there].astype(np.int64)
    weighted = statistics.values[there] * counts[:, :, None]
    weighted[counts == 0] = 0  # not defined there
    behind = some.sums(counts)
    values = np.add.reduceat(weighted, some.offsets[:-1]) / np.maximum(behind, 1)[:, :, None]
    text = text.copy()
    text[several] = len(statistics.values) + np.arange(len(several))
    return Statistics(
        np.concatenate([statistics.values, values.astype(np.float32)]),
        np.concatenate([statistics.counts, behind.astype(np.int32)]),
        text,
    )


def attention_array(
    table: "pa.Table | pd.DataFrame", statistic: str, model: str = ""
) -> np.ndarray:
    """A statistic of every row as float32 [rows, layers, heads]; NaN where it is null.

    `model`: what the model's columns begin with, if there are several models.
    `table` must be a pyarrow table: pandas loses the field's metadata, which has the shape. Raises
    JobError if it is not, or has no such column.
    """
    name = column_of(model, f"attn_{statistic}")
    if not isinstance(table, pa.Table):
        raise JobError(
            f"{type(table).__module__.partition('.')[0]}'s {type(table).__name__} has lost the "
            "shape of the statistics: pass an Arrow table, such as pyarrow.parquet.read_table gives"
        )
    if name not in table.column_names:
        start = column_of(model, "attn_")
        there = [
            field.name.removeprefix(start)
            for field in table.schema
            if field.name.startswith(start) and b"heads" in (field.metadata or {})
        ]
        has = f"it has {', '.join(there)}" if there else "it has none; see --attention"
        raise JobError(f"the table has no statistic '{statistic}' (no column {name}); {has}")
    field = table.schema.field(name)
    layers, heads = (int(field.metadata[key]) for key in (b"layers", b"heads"))
    out = np.full((table.num_rows, layers * heads), np.nan, np.float32)
    column = table.column(name).combine_chunks()
    valid = np.asarray(column.is_valid())
    out[valid] = np.asarray(column.flatten(), np.float32).reshape(-1, layers * heads)
    return out.reshape(-1, layers, heads)
