"""INT96 timestamps of Parquet files, read without loss.

Spark, Hive and Impala write them by default; they have no unit. Arrow reads them as nanoseconds
unless told otherwise: 9999-12-31 then silently becomes a date in 1816. As microseconds every date
is right, but finer digits are cut off. So both are read, and a column is taken in the unit that
loses nothing.
"""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertbatch.errors import SourceError


def unit_of(metadata: pq.FileMetaData) -> str:
    """The unit of a file's columns in its schema; Spark itself has microseconds only."""
    return "us" if "parquet-mr" in (metadata.created_by or "") else "ns"


def int96_leaves(metadata: pq.FileMetaData) -> list[str]:
    """The paths of the INT96 leaves."""
    leaves = [metadata.schema.column(i) for i in range(metadata.num_columns)]
    return [leaf.path for leaf in leaves if leaf.physical_type == "INT96"]


def exact(name: str, source: str, micro: pa.ChunkedArray, nano: pa.ChunkedArray) -> pa.ChunkedArray:
    """The column in the unit that loses nothing. Raises SourceError if there is none."""
    if micro.type == nano.type:
        return nano
    if not pa.types.is_timestamp(micro.type):  # inside of lists or structs
        try:
            if nano.cast(micro.type).equals(micro):
                return nano
        except pa.ArrowInvalid:
            pass
        raise SourceError(
            source,
            f"column '{name}' holds INT96 times inside of lists or structs that are finer than "
            "microseconds, or outside the years 1677 to 2262; write them as INT64 timestamps",
        )
    micros, nanos = micro.cast(pa.int64()), nano.cast(pa.int64())
    towards_zero = pc.divide(nanos, 1000)
    below = pc.less(nanos, pc.multiply(towards_zero, 1000))
    # Nanoseconds wrap around on overflow, and then belong to another microsecond.
    if pc.subtract(towards_zero, below.cast(pa.int64())).equals(micros):
        return nano
    # This product wraps around as the nanoseconds do.
    if not pc.multiply(micros, 1000).equals(nanos):
        raise SourceError(
            source,
            f"column '{name}' holds INT96 times outside the years 1677 to 2262 beside some that "
            "are finer than microseconds; no Arrow type holds both: write INT64 timestamps",
        )
    return micro
