"""Every kind that a job can name: formats, tasks, engines, statistics.

A new kind is one file that follows its protocol, with one line here. The job file's choices, the
calibration, the docs and the error messages read these tables; an implementation is imported
when it is used, so that a job can be checked without torch.
"""

import importlib
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any


@dataclass(frozen=True)
class Kind:
    """`implementation`: module and name, below `bertbatch`. `endings`: how its files' names end.

    `requires`: the module that it needs beyond this package's own dependencies; `extra`: the
    extra of this package that installs that.
    """

    implementation: str
    endings: tuple[str, ...] = ()
    requires: str | None = None
    extra: str | None = None

    @property
    def installed(self) -> bool:
        """Whether this Python has what the kind needs."""
        return self.requires is None or find_spec(self.requires) is not None

    def load(self) -> Any:
        """The implementation, imported. Raises ImportError."""
        module, _, name = self.implementation.partition(":")
        return getattr(importlib.import_module(f"bertbatch.{module}"), name)


# How names of compressed text files end.
CODECS = {".gz": "gzip", ".zst": "zstandard"}


def packed(*endings: str) -> tuple[str, ...]:
    """The endings of text files, and of compressed ones."""
    return tuple(ending + codec for ending in endings for codec in ("", *CODECS))


# See inputs/formats/reader.py.
FORMATS = {
    "parquet": Kind("inputs.formats.parquet:ParquetReader", endings=(".parquet", ".pq")),
    "csv": Kind("inputs.formats.csv:CsvReader", endings=packed(".csv", ".tsv")),
    "jsonl": Kind("inputs.formats.jsonl:JsonlReader", endings=packed(".jsonl", ".ndjson")),
    "arrow": Kind("inputs.formats.arrow:ArrowReader", endings=(".arrow", ".arrows", ".feather")),
    "text": Kind("inputs.formats.text:TextReader", endings=packed(".txt")),
}
# Inputs that say themselves which of their files are valid. See inputs/tables.py and, for the
# first, inputs/huggingface.py.
DATASETS = {
    "huggingface": Kind("inputs.huggingface:saved_files"),
    "delta": Kind("inputs.delta:DeltaTable", requires="deltalake", extra="delta"),
    "iceberg": Kind("inputs.iceberg:IcebergTable", requires="pyiceberg", extra="iceberg"),
}

# Tables that exports write to. See exports/tables.py.
TABLES = {
    "delta": Kind("exports.delta:Delta", requires="deltalake", extra="delta"),
    "iceberg": Kind("exports.iceberg:Iceberg", requires="pyiceberg", extra="iceberg"),
}

# See tasks/task.py.
TASKS = {
    "single_label": Kind("tasks.single_label:SingleLabel"),
    "multi_label": Kind("tasks.multi_label:MultiLabel"),
    "regression": Kind("tasks.regression:Regression"),
    "cross_encoder": Kind("tasks.cross_encoder:CrossEncoder"),
    "embedding": Kind("tasks.embedding:Embedding"),
    "zero_shot": Kind("tasks.zero_shot:ZeroShot"),
    "token_classification": Kind("tasks.token_classification:TokenClassification"),
}

# See engines/engine.py. The first is the default, the others are tried by the calibration.
ENGINES = {
    "torch": Kind("engines.torch_engine:TorchEngine"),
    "openvino": Kind(
        "engines.openvino_engine:OpenVinoEngine", requires="openvino", extra="openvino"
    ),
}

# See statistics/statistic.py. Output columns have this order.
STATISTICS = {
    "entropy": Kind("statistics.entropy:Entropy"),
    "normalized_entropy": Kind("statistics.normalized_entropy:NormalizedEntropy"),
    "max_weight": Kind("statistics.max_weight:MaxWeight"),
    "concentration": Kind("statistics.concentration:Concentration"),
    "mean_distance": Kind("statistics.mean_distance:MeanDistance"),
    "to_cls": Kind("statistics.to_cls:ToCls"),
    "to_sep": Kind("statistics.to_sep:ToSep"),
    "to_punctuation": Kind("statistics.to_punctuation:ToPunctuation"),
    "to_previous": Kind("statistics.to_previous:ToPrevious"),
    "to_self": Kind("statistics.to_self:ToSelf"),
    "to_next": Kind("statistics.to_next:ToNext"),
    "to_other_segment": Kind("statistics.to_other_segment:ToOtherSegment"),
    "received_mean": Kind("statistics.received_mean:ReceivedMean"),
    "received_max": Kind("statistics.received_max:ReceivedMax"),
}
# Those that single texts have, computed in one pass over the weights.
DEFAULT_STATISTICS = [n for n in STATISTICS if not n.startswith(("received", "to_other"))]
