"""A model's folder: what is in its files, told without torch, and what is wrong with them.

Weights are safetensors only: loading a pickle would run whatever code is in it.
"""

import hashlib
import importlib.util
import json
import logging
import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bertbatch.errors import JobError
from bertbatch.units import digest

log = logging.getLogger("bertbatch")

MOST_SHOWN = 300  # characters of another library's message

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
WEIGHT_FILES = ("model.safetensors", "model.safetensors.index.json")
SENTENCEPIECE = (
    *("spiece.model", "sentencepiece.bpe.model", "spm.model", "tokenizer.model"),
    *("sentencepiece.model", "source.spm"),
)
# In this order they make the hash of a tokenizer, which outputs hold: add at the end only.
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", *SENTENCEPIECE[:3], "bpe.codes"),
    *(*SENTENCEPIECE[3:], "dict.txt", "vocab.bpe"),
)
VOCABULARIES = (
    *("tokenizer.json", "vocab.txt", "vocab.json", "bpe.codes", "dict.txt", "vocab.bpe"),
    *SENTENCEPIECE,
)
# Tokenizers that need no file: their tokens are characters or bytes.
WITHOUT_VOCABULARY = ("CanineTokenizer", "ByT5Tokenizer", "PerceiverTokenizer")
# What a checkpoint may hold beside what its classifier uses: tables that can be computed, and
# the layer over the first token that pre-training had.
UNUSED = ("position_ids", "token_type_ids", "inv_freq", "masked_bias")


@contextmanager
def as_job_errors(where: str, doing: str, folder: Path | None = None) -> Iterator[None]:
    """Whatever transformers, tokenizers or safetensors raise becomes a JobError, from it.

    `doing` says what failed then; of a folder's files the one that is no JSON is named. No
    memory left is no matter of the files.
    """
    try:
        yield
    except (JobError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # Rust's panics are all that is ours of these
        text = " ".join(str(error).split())
        if "allocate memory" in text or type(error).__name__ == "OutOfMemoryError":
            raise
        for path in sorted(folder.glob("*.json")) if folder else ():
            read_json(path, where)
        raise JobError(f"{where}: {doing}: {_reason(error, text)}") from error


def _reason(error: BaseException, text: str) -> str:
    if "trust_remote_code" in text or "auto_map" in text:
        return (
            "it needs code of its own (auto_map), and bertbatch runs no code from models; name a "
            "model whose architecture transformers has"
        )
    shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


def check_folder(folder: Path, config: dict[str, Any], where: str) -> None:
    """Raises JobError for what a folder holds that would be ignored, or lacks and be made up."""
    adapters = sorted(path.name for path in folder.glob("adapter_*"))
    if adapters:
        raise JobError(
            f"{where}: holds an adapter ({', '.join(adapters)}), which bertbatch does not apply; "
            "merge it into the weights (peft: model.merge_and_unload().save_pretrained(folder)), "
            "and name that folder"
        )
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise JobError(
            f"{where}: its weights are quantized ({method}: quantization_config in config.json), "
            "which bertbatch does not read; name the checkpoint that it was made from"
        )
    if any((folder / name).is_file() for name in VOCABULARIES):
        _check_sentencepiece(folder, where)
        return
    settings = folder / "tokenizer_config.json"
    class_ = read_json(settings, where).get("tokenizer_class") if settings.is_file() else None
    if class_ not in WITHOUT_VOCABULARY:
        raise JobError(
            f"{where}: {folder} has no tokenizer (tokenizer.json, vocab.txt, …), and without one "
            "every word would be unknown; save it beside the model with "
            "tokenizer.save_pretrained(folder)"
        )


def _check_sentencepiece(folder: Path, where: str) -> None:
    found = [name for name in SENTENCEPIECE if (folder / name).is_file()]
    if not found or (folder / "tokenizer.json").is_file():
        return
    if importlib.util.find_spec("sentencepiece") is None:
        raise JobError(
            f"{where}: its tokenizer is {found[0]} alone, which needs the sentencepiece library on "
            "every machine: pip install 'bertbatch[sentencepiece]'"
        )


def weights_hash(folder: Path, config: dict[str, Any]) -> str:
    ignored = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
    behaviour = {key: value for key, value in config.items() if key not in ignored}
    return digest([hash_files(sorted(folder.glob("*.safetensors"))), behaviour])


def hash_files(paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            whole.update(path.name.encode())
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def read_json(path: Path, where: str) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise JobError(f"{where}: {path.parent} has no {path.name}; is it a model?") from error
    except (OSError, ValueError) as error:
        raise JobError(f"{where}: {path} cannot be read: {error}") from error
    if not isinstance(data, dict):
        raise JobError(f"{where}: {path} is not a JSON object")
    return data


def tensor_shapes(folder: Path, where: str) -> dict[str, list[int]]:
    """The shape of every tensor in the checkpoint, from the safetensors headers."""
    files = [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files_of = read_json(index, where).get("weight_map")
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
    if shapes and all(name.startswith("module.") for name in shapes):
        raise JobError(
            f"{where}: its tensors are called module.…, as DataParallel calls them; save the model "
            "inside of it (model.module.save_pretrained(folder))"
        )
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


def check_head(config: dict[str, Any], shapes: dict[str, list[int]], where: str) -> int:
    """The number of classes. Raises JobError if the checkpoint has no trained head."""
    wanted = HEADS.get(str(config.get("model_type")), ())
    absent = [name for name in wanted if name not in shapes]
    if absent:
        raise JobError(absent_tensors(absent, where))
    named = config.get("id2label") or {}
    if not isinstance(named, dict):
        raise JobError(f"{where}: id2label in config.json is no object of classes")
    count = len(named) or whole_number(config, where, "num_labels") or 2
    if wanted and shapes[wanted[-1]][0] != count:
        raise JobError(
            f"{where}: {wanted[-1]} has {shapes[wanted[-1]][0]} classes, config.json has {count}"
        )
    return count


def _some(names: list[str]) -> str:
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def absent_tensors(names: list[str], where: str) -> str:
    return (
        f"{where}: the checkpoint lacks {_some(names)}; scoring with random numbers in their place "
        "would mean nothing. Fine-tune the model first, or name its fine-tuned checkpoint"
    )


def whole_number(config: dict[str, Any], where: str, *names: str) -> int | None:
    """The first of some keys that is there and not null. Raises JobError if it is no count."""
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise JobError(f"{where}: {name} in config.json is {value!r}, not a whole number")
        return value
    return None


def check_tensors(
    missing: Iterable[str],
    other_shapes: Iterable[tuple[str, Any, Any]],
    unused: Iterable[str],
    base: str,
    where: str,
) -> None:
    """Judges what a checkpoint lacks, has otherwise or too much, by tensors. Raises JobError.

    `other_shapes`: a name, the shape in the checkpoint and that by config.json. `base` is what
    the encoder's tensors begin with. Other tensors that nothing uses, such as the head of
    another task, are named in the log.
    """
    for name, there, wanted in sorted(other_shapes, key=str):
        raise JobError(
            f"{where}: {name} is {list(there)} in the checkpoint, {list(wanted)} by config.json; "
            "is config.json the checkpoint's own?"
        )
    if absent := sorted(missing):
        raise JobError(absent_tensors(absent, where))
    more = sorted(name for name in unused if not name.endswith(UNUSED))
    inside = [name for name in more if name.startswith(f"{base}.") and ".pooler." not in name]
    if inside:
        raise JobError(
            f"{where}: the checkpoint has {_some(inside)}, which the model of its config.json has "
            "not; its answers would be another model's. Is config.json the checkpoint's own?"
        )
    if more:
        log.info("%s: not used by the classifier: %s", where, _some(more))
