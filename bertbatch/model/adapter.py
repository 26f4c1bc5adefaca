"""Adapters as peft saves them: a few weights, with the name of the model that they change."""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bertbatch.errors import JobError
from bertbatch.model.checkpoint import (
    TOKENIZER_FILES,
    as_job_errors,
    encoder_folder,
    hash_files,
    hash_modules,
    read_json,
    safetensors_shapes,
    weights_hash,
)
from bertbatch.model.locate import locate
from bertbatch.units import digest

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."  # of the tensors' names
# What a model is made for, by peft's names for it.
ARCHITECTURES = {
    "SEQ_CLS": "ForSequenceClassification",
    "TOKEN_CLS": "ForTokenClassification",
    "FEATURE_EXTRACTION": "Model",
}
HEADS = ("classifier.weight", "score.weight", "classifier.out_proj.weight")


@dataclass(frozen=True)
class Adapter:
    """An adapter's folder, and its tensors' shapes by their names in the model that it changes.

    `architecture`: how the name of that model's class ends.
    """

    folder: Path
    architecture: str
    tensors: Mapping[str, list[int]]

    def described(self, config: dict[str, Any]) -> dict[str, Any]:
        """The base model's config.json as the changed model's: with the adapter's classes."""
        changed = {**config, "architectures": [f"Adapted{self.architecture}"]}
        found = (self.tensors[name][0] for name in HEADS if name in self.tensors)
        count = next(found, None)
        if count is not None and len(config.get("id2label") or {}) != count:
            changed["id2label"] = {str(i): f"LABEL_{i}" for i in range(count)}
        return changed

    def apply(self, model: Any, where: str) -> Any:
        """The model with the adapter merged into its weights. Raises JobError."""
        from peft import PeftModel, get_peft_model_state_dict

        doing = f"the adapter in {self.folder} cannot be applied"
        with as_job_errors(where, doing), warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*adapter keys.*")
            changed = PeftModel.from_pretrained(model, str(self.folder), is_trainable=False)
            used = {name.removeprefix(PREFIX) for name in get_peft_model_state_dict(changed)}
            if unused := sorted(set(self.tensors) - used):
                raise JobError(f"{where}: {doing}: the base model has no {', '.join(unused[:3])}")
            return changed.merge_and_unload()


@dataclass(frozen=True)
class ModelFiles:
    """A model's folder (`root`) and where its parts are.

    `base` is the folder of the model that an adapter changes, else `root`. `encoder` has the
    weights and config.json, which `config` holds; an adapter changes both.
    """

    root: Path
    base: Path
    encoder: Path
    tokenizer: Path
    config: dict[str, Any]
    adapter: Adapter | None

    def hash(self, where: str) -> str:
        """Over all that makes answers, without the tokenizer."""
        if self.adapter is None:
            return weights_hash(self.root, self.config, where)
        own = hash_files([self.root / CONFIG, self.root / WEIGHTS])
        parts = [weights_hash(self.base, self.config, where), own]
        return digest([*parts, *hash_modules(self.root, where)])


def model_files(root: Path, where: str) -> ModelFiles:
    """What a model's folder holds. Raises JobError."""
    path = root / CONFIG
    if not path.is_file() or (root / "config.json").is_file():
        encoder = encoder_folder(root, where)
        config = read_json(encoder / "config.json", where)
        return ModelFiles(root, root, encoder, encoder, config, None)
    settings = read_json(path, where)
    base, _ = locate(_base(settings, where), settings.get("revision"))
    adapter = Adapter(
        folder=root,
        architecture=ARCHITECTURES.get(str(settings.get("task_type")), "Model"),
        tensors={
            name.removeprefix(PREFIX): shape
            for name, shape in safetensors_shapes(root / WEIGHTS, where).items()
        },
    )
    own_tokenizer = any((root / name).is_file() for name in TOKENIZER_FILES)
    encoder = encoder_folder(base, where)
    config = read_json(encoder / "config.json", where)
    tokenizer = root if own_tokenizer else encoder
    return ModelFiles(root, base, encoder, tokenizer, adapter.described(config), adapter)


def _base(settings: dict[str, Any], where: str) -> str:
    """The name of the model that an adapter changes."""
    name = settings.get("base_model_name_or_path")
    merge = "model.merge_and_unload().save_pretrained(folder)"
    if not isinstance(name, str) or not name:
        raise JobError(
            f"{where}: holds an adapter that names no base model (base_model_name_or_path in "
            f"{CONFIG}); merge it into the weights (in peft: {merge}) and name that folder"
        )
    if find_spec("peft") is None:
        raise JobError(
            f"{where}: holds an adapter of {name}, which needs the peft library on every machine: "
            f"pip install 'bertbatch[peft]', or merge it (in peft: {merge}) and name that folder"
        )
    return name
