"""Models as exporters to ONNX write them: model.onnx beside config.json, with a tokenizer."""

from pathlib import Path

from bertbatch.errors import JobError
from bertbatch.job.model import Model

WEIGHTS = ".safetensors"
GRAPH = "model.onnx"
GRAPHS = (GRAPH, "model.onnx_data", "model.onnx.data")  # large graphs have data beside them
BELOW = "onnx"  # the folder where some exporters put it


def onnx_graph(folder: Path) -> Path | None:
    """The graph of a model that has no safetensors."""
    if any(folder.glob(f"*{WEIGHTS}")):
        return None
    places = (folder / GRAPH, folder / BELOW / GRAPH)
    return next((path for path in places if path.is_file()), None)


def onnx_files(graph: Path) -> list[Path]:
    """A graph and its data."""
    return [path for name in GRAPHS if (path := graph.with_name(name)).is_file()]


def check_onnx(settings: Model, gives: str, where: str) -> None:
    """Raises JobError for what a graph cannot do."""
    have = f"{where}: it has {GRAPH} and no model.safetensors"
    if gives == "vectors":
        raise JobError(f"{have}: embeddings need the weights; name a folder with model.safetensors")
    if settings.engine == "torch":
        raise JobError(f"{have}, which OpenVINO runs; set model.engine: auto")
    if settings.dtype in ("float16", "int8", "fp8"):
        raise JobError(f"{have}: model.dtype may be float32, bfloat16 or auto then")
