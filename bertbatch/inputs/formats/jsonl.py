"""JSONL files: one JSON object a line, in UTF-8.

A line that is no object, or has a value of another type than its column, becomes a bad row; the
other rows are scored. Blank lines are no rows. A field that an object lacks is null; of a field
that it has twice, the last counts. `lines.py` says where lines begin and end, `json_columns.py`
reads what they hold.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import msgspec
import pyarrow as pa

from bertbatch.errors import SourceError
from bertbatch.inputs.formats import lines
from bertbatch.inputs.formats.byte_cuts import MAX_RECORD, cuts_of
from bertbatch.inputs.formats.byte_stream import ByteStream, is_stream, open_stream
from bertbatch.inputs.formats.json_columns import JsonColumns
from bertbatch.inputs.formats.json_types import schema_of
from bertbatch.inputs.formats.reader import CutSize, Rows
from bertbatch.job.input import Input
from bertbatch.units import Cut, Source

_HEAD = 1 << 20  # types are told by the lines of these first bytes, or by the first line


class JsonlReader:
    def schema(self, source: Source, options: Input) -> pa.Schema:
        objects = []
        for line in _first_lines(source, options):
            try:
                objects.append(msgspec.json.decode(line, type=dict[str, Any]))
            except (msgspec.DecodeError, RecursionError):
                continue  # becomes a bad row
        if not objects and (first := _first_lines(source, options)):
            reason = "no line of it is a JSON object"
            if first[0].lstrip().startswith(b"["):
                reason += "; it is an array, which `jq -c '.[]'` writes as one object a line"
            raise SourceError(source.id, f"cannot be read as JSONL: {reason}")
        return schema_of(objects)

    def cut(
        self, source: Source, size: CutSize, options: Input, needed: Sequence[str] = ()
    ) -> Iterator[Cut]:
        with _open(source, options) as stream:
            yield from cuts_of(lines.records(stream.blocks(), blank=False), size)

    def read(
        self,
        source: Source,
        cuts: Sequence[Cut],
        columns: Mapping[str, pa.DataType | None],
        options: Input,
    ) -> Iterator[Rows]:
        objects = JsonColumns(columns, options)
        with _open(source, options) as stream:
            for cut in cuts:
                if cut.bytes > MAX_RECORD:
                    reason = f"line {cut.line}: is {cut.bytes >> 20} MB long"
                    yield replace(objects.read(0, []), bad=[(cut.first_row, reason)])
                    continue
                data = stream.fetch(cut.start, cut.stop)
                found = lines.split(data, blank=False)
                # There may be more lines than rows: `input.limit` shortens a cut.
                if len(data) < cut.stop - cut.start or len(found) < cut.rows:
                    raise SourceError(source.id, "has changed since it was planned")
                numbered = [(cut.line + number, line) for number, line in found[: cut.rows]]
                yield objects.read(cut.first_row, numbered)

    def task_cuts(self, source: Source) -> int:
        return 16 if self.streams(source) else 4

    def streams(self, source: Source) -> bool:
        return is_stream(source)


def _first_lines(source: Source, options: Input) -> list[bytes]:
    """The whole lines of a file's first bytes, or its first line, if that is longer."""
    with _open(source, options) as stream:
        head = b""
        for size in (_HEAD, MAX_RECORD):
            head += stream.fetch(len(head), size)
            stream.check_head(head)
            at = len(head) if len(head) < size else head.rfind(b"\n")
            if at >= 0:
                break
    found = head[:at].removeprefix(lines.BOM)
    return [line for _, line in lines.split(found, blank=False)]


def _open(source: Source, options: Input) -> AbstractContextManager[ByteStream]:
    return open_stream(source, options, "JSONL", "utf-8")
