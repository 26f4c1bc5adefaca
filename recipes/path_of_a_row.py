"""Prints the files that a row passes from the input to a part.

`python -m recipes.path_of_a_row`

One CSV row is scored inline under `sys.setprofile`. A file is on the path if one of its functions
is given the row's text, its token ids, its logits or its columns, between the reading and the
part. Left out are planning, the schema, units, storage, registries and protocols: see `LEFT_OUT`.
"""

import dataclasses
import sys
import tempfile
import threading
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pyarrow as pa

import bertbatch
from bertbatch import Job, run
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from bertbatch.model.tokenizer import get_tokenizer

PACKAGE = Path(bertbatch.__file__).parent
TEXT = "A quietly astonishing, impeccably acted film."
CARRIED = "row-0001-of-the-path"
LEFT_OUT = (
    "plan/",
    "job/",
    "storage/",
    "units.py",
    "registry.py",
    "formats/reader.py",
    "formats/content.py",
)
LARGEST = 1000  # elements: what is larger is the vocabulary or the weights, not one row
DEEPEST = 5  # levels of tuples, lists and dataclasses that are looked into


class Row:
    """What the row is in each of its forms, and the files that were given one of them."""

    def __init__(self) -> None:
        ids = get_tokenizer(check_model(Model())).encode([TEXT], None).ids
        self._ids = ids.astype(np.int64).tobytes()
        self._began = False
        self.files: list[str] = []

    def profile(self, frame: FrameType, event: str, _: Any) -> None:
        """Notes the file of a function that is called with the row."""
        name = frame.f_code.co_filename
        if event != "call" or not name.startswith(str(PACKAGE)):
            return
        self._began = self._began or frame.f_code.co_name == "read_and_tokenize"
        if not self._began:
            return
        file = Path(name).relative_to(PACKAGE).as_posix()
        if file in self.files or any(
            file.startswith(left) or file.endswith(left) for left in LEFT_OUT
        ):
            return
        given = [frame.f_locals.get(n) for n in frame.f_code.co_varnames[: _arguments(frame)]]
        if self._is_in(given, 0):
            self.files.append(file)

    def _is_in(self, value: Any, depth: int) -> bool:
        if isinstance(value, str):
            return TEXT in value or CARRIED in value
        if isinstance(value, bytes | bytearray | memoryview):
            return TEXT.encode() in bytes(value)
        if isinstance(value, pa.Table | pa.RecordBatch | pa.Array | pa.ChunkedArray):
            return self._is_in(str(value.to_pylist()), depth)
        if type(value).__module__.startswith("torch") and hasattr(value, "numpy"):
            if value.numel() > LARGEST:
                return False
            value = value.detach().float().numpy() if value.is_floating_point() else value.numpy()
        if isinstance(value, np.ndarray):
            return self._is_array(value)
        if depth == DEEPEST:
            return False
        return any(self._is_in(part, depth + 1) for part in islice(_parts(value), LARGEST))

    def _is_array(self, value: np.ndarray) -> bool:
        if value.dtype.kind in "iu":
            return self._ids in value.astype(np.int64).tobytes()
        # The packaged model has two classes, and only logits or probabilities have its shape.
        return value.dtype.kind == "f" and value.size == 2 and value.ndim == 2


def _arguments(frame: FrameType) -> int:
    code = frame.f_code
    star = bool(code.co_flags & 4) + bool(code.co_flags & 8)
    return code.co_argcount + code.co_kwonlyargcount + star


def _parts(value: Any) -> Iterable[Any]:
    if isinstance(value, tuple | list):
        return value
    if isinstance(value, dict):
        return value.values()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [getattr(value, field.name) for field in dataclasses.fields(value)]
    return ()


def files_on_the_path() -> list[str]:
    """The files, in the order in which they are first given the row."""
    row = Row()
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "one.csv"
        source.write_text(f'text,id\n"{TEXT}",{CARRIED}\n')
        job = Job.build(
            {
                "input": {"path": str(source), "carry": ["id"]},
                "output": {"path": f"{folder}/out"},
                # The files must not depend on the processor.
                "model": {"engine": "torch", "dtype": "float32"},
                "runtime": {"runner": "inline", "device": "cpu"},
            }
        )
        threading.setprofile(row.profile)
        sys.setprofile(row.profile)
        try:
            run(job)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
    return row.files


def main() -> None:
    print("\n".join(files_on_the_path()))


if __name__ == "__main__":
    main()
