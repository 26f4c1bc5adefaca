"""Times as Spark, Hive and Impala write them by default: INT96, which says no unit.

Arrow reads them as nanoseconds unless told otherwise, and a 9999-12-31 then comes out in 1816
without a word. As microseconds every date is right, but what is finer is cut off. So both are read,
and a column is taken as the one in which nothing is lost.
"""

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from bertbatch.errors import SourceError

# What nanoseconds can say, in microseconds: the years 1677 to 2262.
_LEAST, _MOST = -(2**63) // 1000 + 1, (2**63 - 1) // 1000


def unit_of(metadata: pq.FileMetaData) -> str:
    """The unit in which a file's columns are taken; Spark itself knows microseconds only."""
    return "us" if "parquet-mr" in (metadata.created_by or "") else "ns"


def int96_leaves(metadata: pq.FileMetaData) -> list[str]:
    """The paths of leaves that are INT96."""
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
    ticks = micro.cast(pa.int64())
    # An overflow wraps around, so it is by the microseconds that one is seen.
    far = pc.or_(pc.less(ticks, _LEAST), pc.greater(ticks, _MOST))
    if not pc.any(far).as_py():
        return nano
    near = nano.filter(pc.invert(far)).cast(pa.int64())
    if pc.any(pc.not_equal(near, pc.multiply(pc.divide(near, 1000), 1000))).as_py():
        raise SourceError(
            source,
            f"column '{name}' holds INT96 times outside the years 1677 to 2262 beside some that "
            "are finer than microseconds; no Arrow type holds both: write INT64 timestamps",
        )
    return micro
