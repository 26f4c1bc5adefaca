"""The types of JSON values: found in the first objects of a file, then asked of every other.

A number is an integer or not, as it is written; a string is never a time. Where values differ, an
integer may stand among numbers, and else the first one's type holds.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import msgspec
import pyarrow as pa

_MOST = 1 << 63
_INTEGER = Annotated[int, msgspec.Meta(ge=-_MOST, le=_MOST - 1)]
_SCALARS = {pa.string(): str, pa.bool_(): bool, pa.int64(): _INTEGER, pa.float64(): float | int}


def schema_of(objects: Iterable[Mapping[str, Any]]) -> pa.Schema:
    """The fields of some objects, in the order in which they come up. What is only null is text.

    Those that no column can hold are left out: objects without fields, integers of more than 64
    bits, and names that msgspec does not take.
    """
    found: dict[str, pa.DataType] = {}
    for each in objects:
        for name, value in each.items():
            found[name] = _both(found.get(name, pa.null()), _type_of(value))
    return pa.schema(
        [
            (name, _settled(kind))
            for name, kind in found.items()
            if _is_usable(kind) and not re.search(r'["\\\x00-\x1f]', name)
        ]
    )


def decodable(kind: pa.DataType) -> Any:
    """What msgspec takes for the values of an Arrow type: no other value fits it.

    Types that JSON does not have are not looked at here.
    """
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        inner: Any = decodable(kind.value_type)
        return list[inner] | None
    if pa.types.is_struct(kind):
        fields = {kind.field(i).name: decodable(kind.field(i).type) for i in _places(kind)}
        return object_of(fields) | None
    return _SCALARS[kind] | None if kind in _SCALARS else Any


def object_of(fields: Mapping[str, Any], others: bool = False) -> Any:
    """What msgspec takes for an object with these fields, in this order, each of which may lack.

    Without `others`, an object with any other field does not fit.
    """
    return msgspec.defstruct(
        "Object",
        [(f"f{i}", kind, None) for i, kind in enumerate(fields.values())],
        rename={f"f{i}": name for i, name in enumerate(fields)},
        forbid_unknown_fields=not others,
        gc=False,
    )


def _type_of(value: Any) -> pa.DataType:
    if isinstance(value, bool):
        return pa.bool_()
    if isinstance(value, int):
        return pa.int64() if -_MOST <= value < _MOST else pa.struct([])
    if isinstance(value, list):
        inner = pa.null()
        for each in value:
            inner = _both(inner, _type_of(each))
        return pa.list_(inner)
    if isinstance(value, dict):
        return pa.struct([(name, _type_of(each)) for name, each in value.items()])
    return pa.scalar(value).type


def _both(one: pa.DataType, other: pa.DataType) -> pa.DataType:
    """The type that holds the values of both, else the first."""
    if pa.types.is_null(one):
        return other
    if one in _NUMBERS and other in _NUMBERS:
        return one if one == other else pa.float64()
    if pa.types.is_list(one) and pa.types.is_list(other):
        return pa.list_(_both(one.value_type, other.value_type))
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        fields = {one.field(i).name: one.field(i).type for i in _places(one)}
        for i in _places(other):
            field = other.field(i)
            fields[field.name] = _both(fields.get(field.name, pa.null()), field.type)
        return pa.struct(list(fields.items()))
    return one


def _is_usable(kind: pa.DataType) -> bool:
    if pa.types.is_list(kind):
        return _is_usable(kind.value_type)
    if not pa.types.is_struct(kind):
        return True
    return kind.num_fields > 0 and all(_is_usable(kind.field(i).type) for i in _places(kind))


def _settled(kind: pa.DataType) -> pa.DataType:
    """The type with text wherever nothing is known, which Parquet could not hold."""
    if pa.types.is_list(kind):
        return pa.list_(_settled(kind.value_type))
    if pa.types.is_struct(kind):
        fields = [kind.field(i) for i in _places(kind)]
        return pa.struct([(field.name, _settled(field.type)) for field in fields])
    return pa.string() if pa.types.is_null(kind) else kind


def _places(kind: pa.StructType) -> range:
    return range(kind.num_fields)


_NUMBERS = (pa.int64(), pa.float64())
