"""The model: found and checked on the driver without loading it, loaded once per worker.

The check reads config.json and the safetensors headers only, so it needs no GPU, no torch
and little memory; what it cannot see, `load` finds before anything is scored.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertbatch.errors import JobError
from bertbatch.job.schema import Model
from bertbatch.model.checkpoint import (
    TOKENIZER_FILES,
    WEIGHT_FILES,
    as_job_errors,
    check_folder,
    check_head,
    check_tensors,
    hash_files,
    read_json,
    tensor_shapes,
    weights_hash,
    whole_number,
)

PACKAGED = Path(__file__).parent / "packaged"

# Positions start after the padding index in these, so the table is longer than the text.
OFFSET_POSITIONS = (
    *("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "longformer", "mpnet", "ibert"),
    *("data2vec-text", "roberta-prelayernorm", "luke", "xmod"),
)
_PICTURES = "it reads pictures beside the text"
_BOXES = "it reads where each word stands on a page"
# Classifiers by model type that text alone is not enough for.
UNREADABLE = {
    **dict.fromkeys(("gemma3", "modernvbert", "qwen3_5", "t5gemma2", "ultravbert"), _PICTURES),
    **dict.fromkeys(("layoutlmv2", "layoutlmv3"), f"{_PICTURES}, and where each word stands"),
    **dict.fromkeys(("layoutlm", "lilt"), _BOXES),
    "markuplm": "it reads the markup around each word",
    "tapas": "it reads tables",
}

WORDS = "word_embeddings.weight"  # the table of tokens, as the family names it


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
    vocabulary: int | None  # rows of its table of tokens, where the weights' names tell

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


def check_model(settings: Model) -> ModelSpec:
    """The model that a job names. Raises JobError if it cannot be found or cannot classify."""
    folder, revision = locate(settings.name, settings.revision)
    where = f"model.name {settings.name}"
    with as_job_errors(where, f"{folder} cannot be read"):
        return _checked(settings, folder, revision, where)


def _checked(settings: Model, folder: Path, revision: str | None, where: str) -> ModelSpec:
    config = read_json(folder / "config.json", where)
    named = config.get("architectures") or []
    architectures = [str(name) for name in (named if isinstance(named, list) else [named])]
    if not any(name.endswith("ForSequenceClassification") for name in architectures):
        raise JobError(
            f"{where}: not a sequence-classification model: its config.json names "
            f"{', '.join(architectures) or 'no architecture'}; "
            "fine-tune it for classification, or name a model whose architecture ends in "
            "ForSequenceClassification"
        )
    if (why := UNREADABLE.get(str(config.get("model_type")))) is not None:
        raise JobError(
            f"{where}: {why} ({config['model_type']}); name a model that reads text alone"
        )
    check_folder(folder, config, where)
    shapes = tensor_shapes(folder, where)
    tables = [shape[0] for name, shape in shapes.items() if name.endswith(WORDS) and shape]
    count = check_head(config, shapes, where)
    labels = _labels(settings, config, count, where)
    most = whole_number(config, where, "max_position_embeddings")
    # Some mark by a negative id that there is none.
    pad = config.get("pad_token_id")
    pad = pad if isinstance(pad, int) and pad >= 0 else None
    if most and config.get("model_type") in OFFSET_POSITIONS:
        most -= (1 if pad is None else pad) + 1
    if settings.max_length and most and settings.max_length > most:
        raise JobError(
            f"model.max_length {settings.max_length}: {settings.name} takes at most {most} tokens"
        )
    default = "regression" if count == 1 else "single_label_classification"
    problem_type = str(settings.problem_type or config.get("problem_type") or default)
    if problem_type == "regression" and count != 1:
        raise JobError(f"{where}: a regression model with {count} outputs; bertbatch takes one")
    return ModelSpec(
        # A relative folder means the driver's: workers have another working directory.
        name=str(folder) if Path(settings.name).expanduser().is_dir() else settings.name,
        revision=revision,
        problem_type=problem_type,
        labels=labels,
        threshold=settings.threshold,
        max_length=settings.max_length or most or _tokenizer_limit(folder, where) or 512,
        pad_id=pad or 0,
        weights=weights_hash(folder, config),
        tokenizer=tokenizer_hash(folder),
        quantization="int8" if settings.dtype == "int8" else None,
        layers=whole_number(config, where, "num_hidden_layers", "n_layers") or 0,
        heads=whole_number(config, where, "num_attention_heads", "n_heads") or 0,
        vocabulary=tables[0] if len(tables) == 1 else None,
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
    return hash_files(folder / name for name in TOKENIZER_FILES if (folder / name).is_file())


def load(spec: ModelSpec, device: str, dtype: str, attention: str | None = None) -> Any:
    """The transformers model, on its device, in eval mode; `attention`: its implementation.

    Raises JobError if this node's copy differs from the checked one, or if the checkpoint is
    not that of the model that its config.json describes.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder, _ = locate(spec.name, spec.revision)
    where = f"model.name {spec.name}"
    config = read_json(folder / "config.json", where)
    if weights_hash(folder, config) != spec.weights:
        raise JobError(f"{where}: {folder} on this node holds another model than the driver's")
    with as_job_errors(where, f"the model in {folder} cannot be loaded", folder):
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are judged below
            attn_implementation=attention or _plain_attention(config),
        )
    check_tensors(
        info["missing_keys"],
        info["mismatched_keys"],
        info["unexpected_keys"],
        model.base_model_prefix,
        where,
    )
    return model.to(device).eval()


def _plain_attention(config: dict[str, Any]) -> str | None:
    """What to use where a config.json asks for a kernel that need not be here."""
    return None if config.get("attn_implementation") in (None, "eager", "sdpa") else "eager"


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


def _tokenizer_limit(folder: Path, where: str) -> int | None:
    path = folder / "tokenizer_config.json"
    limit = read_json(path, where).get("model_max_length") if path.is_file() else None
    # "No limit" is written as a number with thirty digits.
    known = isinstance(limit, int | float) and 0 < limit < 1_000_000
    return int(limit) if known and limit else None
