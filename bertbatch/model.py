"""The model: found and checked on the driver without loading it, loaded once per worker.

The check reads config.json and the safetensors headers only, so it needs no GPU, no torch
and little memory; what it cannot see, `load` finds before anything is scored.
"""

import hashlib
import json
import os
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertbatch.errors import JobError
from bertbatch.job import Model
from bertbatch.units import digest

PACKAGED = Path(__file__).parent / "models"

# The tensors of the classification head, by model type: all must be in the checkpoint,
# because transformers would fill a missing one with random numbers.
HEADS = {
    "albert": ("classifier.weight", "classifier.bias"),
    "bert": ("classifier.weight", "classifier.bias"),
    "camembert": ("classifier.dense.weight", "classifier.out_proj.weight"),
    "deberta": ("pooler.dense.weight", "classifier.weight"),
    "deberta-v2": ("pooler.dense.weight", "classifier.weight"),
    "distilbert": ("pre_classifier.weight", "classifier.weight"),
    "electra": ("classifier.dense.weight", "classifier.out_proj.weight"),
    "roberta": ("classifier.dense.weight", "classifier.out_proj.weight"),
    "xlm-roberta": ("classifier.dense.weight", "classifier.out_proj.weight"),
}
# Positions start after the padding index in these, so the table is longer than the text.
OFFSET_POSITIONS = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "ibert"),
    *("data2vec-text", "roberta-prelayernorm", "luke", "xmod"),
)

WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model"),
    *("spm.model", "bpe.codes"),
)


@dataclass(frozen=True)
class ModelSpec:
    """A checked model: where it is, what it answers, and what identifies its answers."""

    name: str
    revision: str | None
    problem_type: str
    labels: tuple[str, ...]
    threshold: float
    max_length: int
    pad_id: int
    weights: str  # SHA-256 of weights and configuration
    tokenizer: str  # SHA-256 of the tokenizer's files
    quantization: str | None  # "int8", which changes answers; other precisions do not
    layers: int
    heads: int  # of each layer

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
            "threshold": self.threshold if self.problem_type.startswith("multi") else None,
        }


def check(settings: Model) -> ModelSpec:
    """The model that a job names. Raises JobError if it cannot be found or cannot classify."""
    folder, revision = locate(settings.name, settings.revision)
    where = f"model.name {settings.name}"
    config = _read_json(folder / "config.json", where)
    architectures = config.get("architectures") or []
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise JobError(
            f"{where}: not a sequence-classification model: its config.json names "
            f"{', '.join(architectures) or 'no architecture'}; "
            "fine-tune it for classification, or name a model whose architecture ends in "
            "ForSequenceClassification"
        )
    shapes = _tensor_shapes(folder, where)
    count = _check_head(config, shapes, where)
    labels = _labels(settings, config, count, where)
    most = config.get("max_position_embeddings")
    if most and config.get("model_type") in OFFSET_POSITIONS:
        pad = config.get("pad_token_id")
        most -= (1 if pad is None else pad) + 1
    if settings.max_length and most and settings.max_length > most:
        raise JobError(
            f"model.max_length {settings.max_length}: {settings.name} takes at most {most} tokens"
        )
    default = "regression" if count == 1 else "single_label_classification"
    problem_type = config.get("problem_type") or default
    if problem_type == "regression" and count != 1:
        raise JobError(f"{where}: a regression model with {count} outputs; bertbatch takes one")
    return ModelSpec(
        # A relative folder means the driver's: workers have another working directory.
        name=str(folder) if Path(settings.name).expanduser().is_dir() else settings.name,
        revision=revision,
        problem_type=problem_type,
        labels=labels,
        threshold=settings.threshold,
        max_length=settings.max_length or most or _tokenizer_limit(folder) or 512,
        pad_id=config.get("pad_token_id") or 0,
        weights=_weights_hash(folder, config),
        tokenizer=tokenizer_hash(folder),
        quantization="int8" if settings.dtype == "int8" else None,
        layers=int(config.get("num_hidden_layers") or config.get("n_layers") or 0),
        heads=int(config.get("num_attention_heads") or config.get("n_heads") or 0),
    )


def packaged() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(p.parent.name.replace("_", "-") for p in PACKAGED.glob("*/config.json"))


def locate(name: str, revision: str | None) -> tuple[Path, str | None]:
    """The folder of a packaged model, a local folder or a Hub model, and its revision.

    Raises JobError if there is none.
    """
    if name.replace("_", "-") in packaged():
        return PACKAGED / name.replace("-", "_"), None
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve(), None
    if folder.is_file() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        known = ", ".join(packaged())
        raise JobError(
            f"model.name {name}: no such folder; name a folder with config.json and "
            f"model.safetensors, a Hugging Face Hub id, or a packaged model: {known}"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = [*WEIGHT_FILES, "*.safetensors", "config.json", *TOKENIZER_FILES]
    try:
        path = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise JobError(
            f"model.name {name}: neither a packaged model nor a local folder, and the Hugging "
            f"Face Hub did not give it: {reason}"
        ) from error
    return path, path.name  # a snapshot's folder is named after its commit


def tokenizer_hash(folder: Path) -> str:
    return _hash_files(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())


def load(spec: ModelSpec, device: str, dtype: str, attention: str | None = None) -> Any:
    """The transformers model, on its device, in eval mode; `attention`: its implementation.

    Raises JobError if this node's copy differs from the checked one, or if the checkpoint
    lacks tensors.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder, _ = locate(spec.name, spec.revision)
    where = f"model.name {spec.name}"
    if _weights_hash(folder, _read_json(folder / "config.json", where)) != spec.weights:
        raise JobError(f"{where}: {folder} on this node holds another model than the driver's")
    try:
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            attn_implementation=attention,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise JobError(f"{where}: cannot be loaded: {error}") from error
    absent = sorted(info["missing_keys"]) + sorted(str(key) for key in info["mismatched_keys"])
    if absent:
        raise JobError(_absent(absent, where))
    return model.to(device).eval()


def _weights_hash(folder: Path, config: dict[str, Any]) -> str:
    ignored = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
    behaviour = {key: value for key, value in config.items() if key not in ignored}
    return digest([_hash_files(sorted(folder.glob("*.safetensors"))), behaviour])


def _hash_files(paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            whole.update(path.name.encode())
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _read_json(path: Path, where: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise JobError(f"{where}: {path.parent} has no {path.name}; is it a model?") from error
    except (OSError, ValueError) as error:
        raise JobError(f"{where}: {path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise JobError(f"{where}: {path} is not a JSON object")
    return data


def _tensor_shapes(folder: Path, where: str) -> dict[str, list[int]]:
    """The shape of every tensor in the checkpoint, from the safetensors headers."""
    files = [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files_of = _read_json(index, where).get("weight_map")
        if not isinstance(files_of, dict) or not all(isinstance(n, str) for n in files_of.values()):
            raise JobError(f"{where}: {index} has no weight_map of names")
        names = set(files_of.values())
        if any(Path(name).name != name for name in names):
            raise JobError(f"{where}: {index} names weights outside of the model's folder")
        files = [folder / name for name in sorted(names)]
    elif not files[0].is_file():
        pickles = sorted(p.name for p in folder.glob("*.bin")) + sorted(
            p.name for p in folder.glob("*.pt")
        )
        if pickles:
            raise JobError(
                f"{where}: its weights are pickled ({', '.join(pickles)}), and loading a pickle "
                "runs whatever code is in it; save it with "
                "save_pretrained(folder, safe_serialization=True)"
            )
        raise JobError(f"{where}: {folder} has no model.safetensors")
    shapes: dict[str, list[int]] = {}
    for path in files:
        shapes |= _safetensors_shapes(path, where)
    return shapes


def _safetensors_shapes(path: Path, where: str) -> dict[str, list[int]]:
    """By the header, as the format defines it: its length in 8 bytes, then JSON, then data."""
    try:
        with open(path, "rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 100_000_000:
                raise ValueError("the header is too long")
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            end = max(tensor["data_offsets"][1] for tensor in header.values())
            if os.fstat(file.fileno()).st_size != 8 + length + end:
                raise ValueError("the file is cut off or has grown")
            return {name: [int(n) for n in tensor["shape"]] for name, tensor in header.items()}
    except FileNotFoundError as error:
        raise JobError(f"{where}: {path} is missing") from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError, struct.error) as error:
        raise JobError(f"{where}: {path} is not a whole safetensors file: {error}") from error


def _check_head(config: dict[str, Any], shapes: dict[str, list[int]], where: str) -> int:
    """The number of classes. Raises JobError if the checkpoint has no trained head."""
    wanted = HEADS.get(str(config.get("model_type")), ())
    absent = [name for name in wanted if name not in shapes]
    if absent:
        raise JobError(_absent(absent, where))
    count = len(config.get("id2label") or {}) or int(config.get("num_labels") or 2)
    if wanted and shapes[wanted[-1]][0] != count:
        raise JobError(
            f"{where}: {wanted[-1]} has {shapes[wanted[-1]][0]} classes, config.json has {count}"
        )
    return count


def _absent(names: list[str], where: str) -> str:
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
    return (
        f"{where}: the checkpoint lacks {shown}; scoring with random numbers in their place "
        "would mean nothing. Fine-tune the model first, or name its fine-tuned checkpoint"
    )


def _labels(settings: Model, config: dict[str, Any], count: int, where: str) -> tuple[str, ...]:
    if settings.labels is not None:
        if len(settings.labels) != count:
            raise JobError(
                f"model.labels names {len(settings.labels)} classes, {settings.name} has {count}"
            )
        if len(set(settings.labels)) != count:
            raise JobError("model.labels names a class twice")
        return tuple(settings.labels)
    named = config.get("id2label") or {str(i): f"LABEL_{i}" for i in range(count)}
    try:
        return tuple(str(named[str(i)]) for i in range(count))
    except KeyError as error:
        raise JobError(f"{where}: id2label in config.json has no class {error}") from error


def _tokenizer_limit(folder: Path) -> int | None:
    path = folder / "tokenizer_config.json"
    if not path.is_file():
        return None
    limit = json.loads(path.read_text(encoding="utf-8")).get("model_max_length")
    return int(limit) if limit and limit < 1_000_000 else None
