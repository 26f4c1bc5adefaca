"""Models as exporters to ONNX write them: model.onnx beside config.json, with a tokenizer."""

import mmap
import re
from pathlib import Path

from bertbatch.errors import JobError
from bertbatch.job.model import Model

WEIGHTS = ".safetensors"
GRAPH = "model.onnx"
GRAPHS = (GRAPH, "model.onnx_data", "model.onnx.data")  # large graphs have data beside them
# Of a tensor whose weights are in a file: an entry with the key "location", then its value's tag
# (onnx.proto, TensorProto.external_data).
LOCATION = re.compile(rb"\x0a\x08location\x12")
LONGEST = 4096  # of a file's name
BELOW = "onnx"  # the folder where some exporters put it


def onnx_graph(folder: Path) -> Path | None:
    """The graph of a model that has no safetensors."""
    if any(folder.glob(f"*{WEIGHTS}")):
        return None
    places = (folder / GRAPH, folder / BELOW / GRAPH)
    return next((path for path in places if path.is_file()), None)


def onnx_files(graph: Path, where: str) -> list[Path]:
    """A graph, and the files beside it that hold its weights. Raises JobError."""
    names = set()
    with open(graph, "rb") as file:
        if graph.stat().st_size:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                names = {_text(data, found.end()) for found in LOCATION.finditer(data)}
    for name in sorted(names):
        if Path(name).name != name or not graph.with_name(name).is_file():
            raise JobError(
                f"{where}: {graph} has weights in {name!r}, which is not a file beside it; copy it "
                "there, or export the model into one file, or with model.onnx_data"
            )
    return [graph, *(graph.with_name(name) for name in sorted(names))]


def _text(data: mmap.mmap, at: int) -> str:
    """The text whose length, a varint, is at this place."""
    size = shift = 0
    while True:
        byte = data[at]
        size, shift, at = size | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return data[at : at + min(size, LONGEST)].decode(errors="replace")


def size_of(graph: Path, where: str) -> int:
    """Bytes, with its weights. Raises JobError."""
    return sum(path.stat().st_size for path in onnx_files(graph, where))


def check_onnx(settings: Model, gives: str, adapter: bool, where: str) -> None:
    """Raises JobError for what a graph cannot do."""
    have = f"{where}: it has {GRAPH} and no model.safetensors"
    if adapter:
        raise JobError(f"{have} that the adapter could change; name a base model with weights")
    if gives == "vectors":
        raise JobError(f"{have}: embeddings need the weights; name a folder with model.safetensors")
    if settings.engine == "torch":
        raise JobError(f"{have}, which OpenVINO runs; set model.engine: auto")
    if settings.dtype in ("float16", "int8", "fp8"):
        raise JobError(f"{have}: model.dtype may be float32, bfloat16 or auto then")
