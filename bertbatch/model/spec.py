"""Checks a model on the driver, without loading it.

The check reads config.json and the safetensors headers only, so it needs no GPU, no torch and
little memory. What it cannot see, `loading.py` finds in the first worker, before anything is
scored.
"""

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bertbatch.errors import JobError
from bertbatch.job.model import Model
from bertbatch.model.adapter import model_files
from bertbatch.model.asked import Asked, asked_of, gives_of
from bertbatch.model.checkpoint import (
    TOKENIZER_FILES,
    as_job_errors,
    check_folder,
    check_head,
    check_sizes,
    check_tokenizer,
    class_count,
    hash_files,
    read_json,
    tensor_shapes,
    whole_number,
)
from bertbatch.model.locate import locate
from bertbatch.model.onnx import check_onnx, onnx_graph, size_of
from bertbatch.model.sentence_transformers import Modules, modules_of
from bertbatch.storage.stores import expand, public

# In these, positions start after the padding index, so the table is longer than the text.
OFFSET_POSITIONS = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "ibert"),
    *("data2vec-text", "roberta-prelayernorm", "luke", "xmod"),
)
_PICTURES = "it reads images with the text"
_BOXES = "it reads the position of each word on a page"
# Classifiers by model type that text alone is not enough for.
UNREADABLE = {
    **dict.fromkeys(("gemma3", "modernvbert", "qwen3_5", "t5gemma2", "ultravbert"), _PICTURES),
    **dict.fromkeys(("layoutlmv2", "layoutlmv3"), f"{_PICTURES}, and the position of each word"),
    **dict.fromkeys(("layoutlm", "lilt"), _BOXES),
    "markuplm": "it reads the markup around each word",
    "tapas": "it reads tables",
}

FLOAT = 4  # bytes of a parameter in a graph, roughly
WORDS = "word_embeddings.weight"  # how BERT-like models name the embedding table


@dataclass(frozen=True)
class ModelSpec:
    """A checked model: where it is, what it answers, what identifies its answers."""

    name: str
    revision: str | None
    asked: Asked
    labels: tuple[str, ...]
    threshold: float
    max_length: int
    pad_id: int
    weights: str  # SHA-256 of weights and configuration
    tokenizer: str  # SHA-256 of the tokenizer's files
    tokenizer_classes: tuple[str, str]  # what of config.json may choose the tokenizer's class
    quantization: str | None  # "int8" or "fp8", which change answers; other precisions do not
    layers: int
    heads: int  # of each layer
    reach: tuple[int | None, ...]  # of each layer: how far from a query keys may be, None: any
    vocabulary: int | None  # rows of its embedding table, if one tensor has its name
    parameters: int  # that a token is multiplied with, roughly
    modules: Modules | None  # after the encoder, of an embedding model
    onnx: bool = False  # whether it is a graph, and has no safetensors
    storage_options: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def dimensions(self) -> int:
        """Of the vectors that an embedding model gives."""
        assert self.modules
        return self.modules.dimensions

    @property
    def problem_type(self) -> str:
        return self.asked.problem_type

    @property
    def encoding(self) -> tuple[Any, ...]:
        """What a text's tokens follow from: models where this is equal share them."""
        asked = self.asked
        return (
            *self.tokenizer_classes,
            *(self.tokenizer, self.max_length, self.pad_id, asked.gives == "tokens"),
            *(asked.long_text, asked.stride, asked.task == "zero_shot"),
            *(asked.candidate_labels, asked.hypothesis_template),
        )

    @property
    def _has_threshold(self) -> bool:
        return self.asked.task == "multi_label" or self.asked.multi_label

    @property
    def answers(self) -> dict[str, Any]:
        """Everything about the model that changes answers."""
        return {
            "weights": self.weights,
            "tokenizer": self.tokenizer,
            "quantization": self.quantization,
            "max_length": self.max_length,
            "problem_type": self.problem_type,
            "labels": list(self.labels),
            "threshold": self.threshold if self._has_threshold else None,
            **({"pooling": self.modules.pooling} if self.modules else {}),
            **self.asked.answers,
        }


def check_model(settings: Model) -> ModelSpec:
    """The model that a job names. Raises JobError if it cannot be found or cannot classify."""
    root, revision = locate(settings.name, settings.revision, settings.storage_options)
    where = f"model.name {public(settings.name)}"
    with as_job_errors(where, f"{root} cannot be read"):
        return _checked(settings, root, revision, where)


def _checked(settings: Model, root: Path, revision: str | None, where: str) -> ModelSpec:
    files = model_files(root, where)
    folder, config, adapter = files.encoder, files.config, files.adapter
    gives = gives_of(settings, config, (root / "modules.json").is_file(), where)
    if (why := UNREADABLE.get(str(config.get("model_type")))) is not None:
        raise JobError(
            f"{where}: {why} ({config['model_type']}); name a model that reads text alone"
        )
    check_folder(folder, config, where)
    check_tokenizer(files.tokenizer, where)
    graph = onnx_graph(folder)
    if graph:
        check_onnx(settings, gives, adapter is not None, where)
    shapes = {} if graph else tensor_shapes(folder, where)
    tables = [shape[0] for name, shape in shapes.items() if name.endswith(WORDS) and shape]
    check_sizes(config, shapes, where)
    modules = None
    if gives == "vectors":
        modules = modules_of(settings.pooling, config, root, where)
        count = modules.dimensions
        labels: tuple[str, ...] = ()
    else:
        head = {**shapes, **adapter.tensors} if adapter else shapes
        count = class_count(config, where) if graph else check_head(config, head, gives, where)
        labels = _labels(settings, config, count, where)
    most = whole_number(config, where, "max_position_embeddings")
    # A negative id means that there is none.
    pad = config.get("pad_token_id")
    pad = pad if isinstance(pad, int) and pad >= 0 else None
    if most and config.get("model_type") in OFFSET_POSITIONS:
        most -= (1 if pad is None else pad) + 1
    if settings.max_length and most and settings.max_length > most:
        raise JobError(
            f"model.max_length {settings.max_length}: {settings.name} takes at most {most} tokens"
        )
    length = settings.max_length or (modules and modules.max_length)
    if modules and not length:  # as sentence-transformers has it
        length = min(filter(None, [most, _tokenizer_limit(files.tokenizer, where)]), default=None)
    layers = whole_number(config, where, "num_hidden_layers", "n_layers") or 0
    vocabulary = tables[0] if len(tables) == 1 else None
    if graph:  # what it has is not known, and it would take ids beyond that
        vocabulary = whole_number(config, where, "vocab_size")
    return ModelSpec(
        # A relative folder means the driver's: workers have another working directory.
        name=str(root) if Path(settings.name).expanduser().is_dir() else settings.name,
        revision=revision,
        asked=asked_of(settings, config, count, gives, where),
        labels=labels,
        threshold=settings.threshold,
        max_length=length or most or _tokenizer_limit(files.tokenizer, where) or 512,
        pad_id=pad or 0,
        weights=files.hash(where),
        tokenizer=tokenizer_hash(files.tokenizer),
        tokenizer_classes=(str(config.get("model_type")), str(config.get("tokenizer_class"))),
        quantization=settings.dtype if settings.dtype in ("int8", "fp8") else None,
        layers=layers,
        heads=whole_number(config, where, "num_attention_heads", "n_heads") or 0,
        reach=_reach(config, layers, where),
        vocabulary=vocabulary,
        parameters=size_of(graph, where) // FLOAT if graph else _multiplied(shapes, layers),
        modules=modules,
        onnx=graph is not None,
        storage_options=expand(settings.storage_options),  # a worker may have another environment
    )


def _reach(config: dict[str, Any], layers: int, where: str) -> tuple[int | None, ...]:
    """By the keys of models whose layers attend to near tokens, such as ModernBERT."""
    local = whole_number(config, where, "local_attention")
    window = local // 2 if local else whole_number(config, where, "sliding_window")
    every = whole_number(config, where, "global_attn_every_n_layers") or 1
    types = config.get("layer_types") or [
        "sliding_attention" if i % every else "full_attention" for i in range(layers)
    ]
    return tuple(window if kind == "sliding_attention" else None for kind in types)


def _multiplied(shapes: dict[str, list[int]], layers: int) -> int:
    """The parameters that a token is multiplied with: all but tables, for each layer its own."""
    own = sum(math.prod(s) for name, s in shapes.items() if "embeddings" not in name)
    # ALBERT's layers have one set of weights.
    shared = layers > 1 and not any(".1." in name for name in shapes)
    return own * layers if shared else own


def tokenizer_hash(folder: Path) -> str:
    return hash_files(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())


def _labels(settings: Model, config: dict[str, Any], count: int, where: str) -> tuple[str, ...]:
    if settings.labels is not None:
        if len(settings.labels) != count:
            raise JobError(
                f"model.labels names {len(settings.labels)} classes, {settings.name} has {count}"
            )
        if len(set(settings.labels)) != count:
            raise JobError("model.labels names a class twice; give each class a name of its own")
        return tuple(settings.labels)
    named = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(count)}
    try:
        return tuple(str(named[str(i)]) for i in range(count))
    except KeyError as error:
        raise JobError(f"{where}: id2label in config.json has no class {error}") from error


def _tokenizer_limit(folder: Path, where: str) -> int | None:
    path = folder / "tokenizer_config.json"
    limit = read_json(path, where).get("model_max_length") if path.is_file() else None
    # "No limit" is written as a number with thirty digits.
    known = isinstance(limit, int | float) and 0 < limit < 1_000_000
    return int(limit) if known and limit else None
