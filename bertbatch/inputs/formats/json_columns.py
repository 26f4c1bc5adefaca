"""The columns that a job asks for, read from JSON objects.

Only what is asked for is decoded. A value that is not of its column's type makes its row a bad
one: no value is ever turned into another.
"""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

from bertbatch.inputs.formats.json_types import decodable, object_of
from bertbatch.inputs.formats.reader import WRITTEN, Rows
from bertbatch.job.input import Input

# What msgspec and Arrow raise for a value that is of another type, too large or too deep.
_WRONG = (ValueError, TypeError, OverflowError, RecursionError, pa.ArrowException)
_Get = Callable[[Any], Any]  # a column's value in an object


class JsonColumns:
    """Reads columns by name and type; None stands for text.

    A name with dots is a field of that name, or else one of an object in an object.
    """

    def __init__(self, columns: Mapping[str, pa.DataType | None], options: Input):
        # What a template names is text as it is written, also if it is a number.
        # One that is carried as well has two columns: its value, and its text.
        template = options.texts.get("template", ())
        self._types = {name: kind or pa.string() for name, kind in columns.items()}
        texts = {name: name + WRITTEN * bool(columns[name]) for name in template if name in columns}
        self._types |= dict.fromkeys(texts.values(), pa.string())
        roots = {name.partition(".")[0] for name in columns if "." in name}
        fields: dict[str, Any] = dict.fromkeys(roots, msgspec.Raw)
        for name in columns:
            raw = name in roots or "." in name or name in texts
            fields[name] = msgspec.Raw if raw else decodable(self._types[name])
        place = {name: f"f{i}" for i, name in enumerate(fields)}
        self._decode = msgspec.json.Decoder(object_of(fields, others=True)).decode
        self._get: dict[str, _Get] = {
            name: _later(name, place, self._types[name])
            if fields[name] is msgspec.Raw
            else attrgetter(place[name])
            for name in columns
        }
        for name, column in texts.items():
            self._get[column] = _later(name, place, _as_written)

    def read(self, first_row: int, lines: Sequence[tuple[int, bytes]]) -> Rows:
        """The rows of some lines, each with its number."""
        decode = self._decode
        objects, rows, numbers = [], [], []
        bad: dict[int, str] = {}
        for row, (number, line) in enumerate(lines, first_row):
            try:
                objects.append(decode(line))
            except _WRONG as error:
                bad[row] = f"line {number}: {error}"
                continue
            rows.append(row)
            numbers.append(number)
        arrays = []
        for name, kind in self._types.items():
            array, wrong = _column(self._get[name], kind, objects)
            arrays.append(array)
            for i, why in wrong.items():
                bad.setdefault(rows[i], f"line {numbers[i]}: column '{name}': {why}")
        schema = pa.schema(list(self._types.items()))
        table, numbered = pa.table(arrays, schema=schema), np.array(rows, np.int64)
        good = ~np.isin(numbered, list(bad))
        if not good.all():
            table, numbered = table.filter(pa.array(good)), numbered[good]
        return Rows(table, numbered, sorted(bad.items()))


def _column(get: _Get, kind: pa.DataType, objects: list[Any]) -> tuple[pa.Array, dict[int, str]]:
    """The values, and for each position that has none of the type the reason."""
    try:
        return _array(list(map(get, objects)), kind), {}
    except _WRONG:
        pass  # one by one, to find which
    values: list[Any] = []
    wrong: dict[int, str] = {}
    for i, each in enumerate(objects):
        try:
            values.append(get(each))
            _array(values[-1:], kind)
        except _WRONG as error:
            del values[i:]
            values.append(None)
            wrong[i] = str(error)
    return _array(values, kind), wrong


def _array(values: list[Any], kind: pa.DataType) -> pa.Array:
    if pa.types.is_nested(kind):
        values = msgspec.to_builtins(values)
    return pa.array(values, kind)


def _later(name: str, place: Mapping[str, str], how: pa.DataType | _Get) -> _Get:
    """Decodes a column's value from the JSON of its field, or of the object that it is in."""
    root, *path = name.split(".")

    def decoder(path: Sequence[str]) -> _Get:
        typed: Any = decodable(how) if isinstance(how, pa.DataType) else msgspec.Raw
        for step in reversed(path):
            typed = object_of({step: typed}, others=True) | None
        return msgspec.json.Decoder(typed).decode

    own, inner = decoder(()), decoder(path)
    here, above = attrgetter(place[name]), attrgetter(place[root])

    def get(of: Any) -> Any:
        if (raw := here(of)) is not None:
            value = own(raw)
        elif path and (raw := above(of)) is not None:
            value = inner(raw)
            for _ in path:
                value = value and value.f0
        else:
            return None
        return value if isinstance(how, pa.DataType) else how(value)

    return get


def _as_written(raw: msgspec.Raw | None) -> str | None:
    """A text, or a number or a truth value as it stands in the file. Raises ValueError."""
    text = bytes(raw).decode() if raw is not None else "null"
    if text[:1] in "[{":
        raise ValueError("is a list or an object, not text")
    return msgspec.json.decode(text, type=str | None) if text[:1] in '"n' else text
