"""What a condition's columns are when it is computed: arrays, or fields of Arrow's expressions."""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from bertbatch.job.condition import Node, is_literal, name_of, type_of, value_of


class Arrays:
    """Columns as arrays."""

    def __init__(self, values: dict[str, pa.ChunkedArray]):
        self._values = values

    def column(self, name: str) -> Any:
        return self._values[name]

    def literal(self, value: Any) -> Any:
        return pa.scalar(value)

    def cast(self, node: exp.Cast, value: Any, kind: pa.DataType) -> Any:
        return value.cast(kind)

    def type_of(self, node: Node, value: Any) -> pa.DataType:
        return value.type

    def known(self, node: Node, value: Any) -> Any:
        """What is told of null, but null itself where a cast has failed."""
        return value


class Carefully(Arrays):
    """Columns as arrays; what cannot be cast is null, and noted."""

    def __init__(self, values: dict[str, pa.ChunkedArray]):
        super().__init__(values)
        self.failed: dict[int, str] = {}
        self._failed_in: dict[int, set[int]] = {}  # the rows of each cast

    def cast(self, node: exp.Cast, value: Any, kind: pa.DataType) -> Any:
        if isinstance(value, pa.Scalar):
            return value.cast(kind)
        cast = []
        rows = self._failed_in.setdefault(id(node), set())
        for i, each in enumerate(value):
            try:
                cast.append(each.cast(kind).as_py())
            except pa.ArrowInvalid:
                cast.append(None)
                rows.add(i)
                said = f"input.where: {node.sql('duckdb')} fails for {each.as_py()!r:.100}"
                self.failed.setdefault(i, said)
        return pa.chunked_array([pa.array(cast, kind)])

    def known(self, node: Node, value: Any) -> Any:
        within = (self._failed_in.get(id(cast), set()) for cast in node.find_all(exp.Cast))
        rows = set[int]().union(*within)
        if not rows:
            return value
        failed = np.zeros(len(value), bool)
        failed[list(rows)] = True
        return pc.if_else(pa.array(failed), pa.scalar(None, pa.bool_()), value)


class Fields:
    """Columns as fields of an Arrow expression."""

    def __init__(self, schema: pa.Schema):
        self._schema = schema

    def column(self, name: str) -> Any:
        return pc.field(name)

    def literal(self, value: Any) -> Any:
        return pc.scalar(value)

    def cast(self, node: exp.Cast, value: Any, kind: pa.DataType) -> Any:
        return value.cast(kind)

    def type_of(self, node: Node, value: Any) -> pa.DataType:
        while isinstance(node, exp.Paren):
            node = node.this
        if isinstance(node, exp.Column):
            return value_type(self._schema.field(name_of(node)).type)
        if isinstance(node, exp.Cast):
            return type_of(node.args["to"])
        return pa.scalar(value_of(node)).type if is_literal(node) else pa.bool_()

    def known(self, node: Node, value: Any) -> Any:
        return value


def value_type(kind: pa.DataType) -> pa.DataType:
    if isinstance(kind, pa.JsonType):
        kind = kind.storage_type
    return kind.value_type if pa.types.is_dictionary(kind) else kind
