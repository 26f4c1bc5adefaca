"""The files of a model's folder, checked without torch.

Weights are safetensors only: loading a pickle would run whatever code is in it.
"""

import hashlib
import importlib.util
import json
import math
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from bertbatch.errors import JobError
from bertbatch.model.onnx import onnx_files, onnx_graph
from bertbatch.units import digest
from bertbatch.wording import shorten

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
MODULE = ("type", "path")  # of a module in modules.json

# Keys of config.json that are sizes, and how large they may be whatever the weights are.
SIZE = re.compile(r"(layers?|heads|size|dim|embeddings)$")
MANY, MANY_LAYERS = 10**6, 1000


@contextmanager
def as_job_errors(where: str, doing: str, folder: Path | None = None) -> Iterator[None]:
    """Turns whatever transformers, tokenizers or safetensors raise into a JobError.

    `doing` says what failed. If one of the folder's JSON files is damaged, the error names it. Out
    of memory stays as it is, since that is no fault of the files.
    """
    try:
        yield
    except (JobError, MemoryError):
        raise
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise  # of these, only a panic in Rust comes from the files
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
            "model whose architecture is part of transformers"
        )
    shown = text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…"
    return f"{type(error).__name__}: {shown}" if shown else type(error).__name__


def check_folder(folder: Path, config: dict[str, Any], where: str) -> None:
    """Raises JobError if a folder holds what would be ignored, or lacks what would be invented."""
    adapters = sorted(path.name for path in folder.glob("adapter_*"))
    if adapters:
        raise JobError(
            f"{where}: holds an adapter ({', '.join(adapters)}), which bertbatch does not apply; "
            "merge it into the weights (in peft: model.merge_and_unload().save_pretrained(folder)) "
            "and name that folder"
        )
    if quantized := config.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise JobError(
            f"{where}: its weights are quantized ({method}: quantization_config in config.json), "
            "which bertbatch does not read; name the original checkpoint"
        )


def check_tokenizer(folder: Path, where: str) -> None:
    """Raises JobError if a folder has no tokenizer, or one that needs a library."""
    if any((folder / name).is_file() for name in VOCABULARIES):
        _check_sentencepiece(folder, where)
        return
    settings = folder / "tokenizer_config.json"
    class_ = read_json(settings, where).get("tokenizer_class") if settings.is_file() else None
    if class_ not in WITHOUT_VOCABULARY:
        raise JobError(
            f"{where}: {folder} has no tokenizer (tokenizer.json, vocab.txt, …), and without one "
            "every word would be unknown; save it in the model's folder with "
            "tokenizer.save_pretrained(folder)"
        )


def _check_sentencepiece(folder: Path, where: str) -> None:
    found = [name for name in SENTENCEPIECE if (folder / name).is_file()]
    if not found or (folder / "tokenizer.json").is_file():
        return
    if importlib.util.find_spec("sentencepiece") is None:
        raise JobError(
            f"{where}: its tokenizer is only {found[0]}, which needs the sentencepiece library on "
            "every machine: pip install 'bertbatch[sentencepiece]'"
        )


def list_modules(folder: Path, where: str) -> list[tuple[str, str]]:
    """The class and subfolder of each module of sentence-transformers; empty for other models."""
    path = folder / "modules.json"
    if not path.is_file():
        return []
    found = []
    for module in read_json(path, where, list):
        kind, below = (module.get(key) if isinstance(module, dict) else 0 for key in MODULE)
        if not isinstance(kind, str) or not isinstance(below, str) or not is_name(below):
            raise JobError(f"{where}: {path} is not a list of modules, each with type and path")
        found.append((kind.rpartition(".")[2], below))
    return found


def is_name(path: str) -> bool:
    """Whether a path names a file or folder in this one, or, if it is empty, this one."""
    return Path(path).name == path and path != ".."


def encoder_folder(folder: Path, where: str) -> Path:
    """Where a model's config.json, weights and tokenizer are: itself, or a folder below."""
    modules = list_modules(folder, where)
    return folder / modules[0][1] if modules else folder


def weights_hash(folder: Path, config: dict[str, Any], where: str) -> str:
    """Over what makes answers; `config` is the encoder's."""
    ignored = ("_name_or_path", "transformers_version", "torch_dtype", "dtype")
    behaviour = {key: value for key, value in config.items() if key not in ignored}
    encoder = encoder_folder(folder, where)
    files = sorted(encoder.glob("*.safetensors"))
    graph = None if files else onnx_graph(encoder)
    parts: list[Any] = [hash_files(onnx_files(graph, where) if graph else files), behaviour]
    return digest(parts + hash_modules(folder, where))


def hash_modules(folder: Path, where: str) -> list[list[str]]:
    """Over what follows an encoder in a folder of sentence-transformers."""
    parts = []
    for kind, below in list_modules(folder, where)[1:]:
        files = [*sorted((folder / below).glob("*.safetensors")), folder / below / "config.json"]
        parts.append([kind, hash_files(path for path in files if below and path.is_file())])
    return parts


def hash_files(paths: Iterable[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            whole.update(path.name.encode())
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def read_json(path: Path, where: str, kind: type = dict) -> Any:
    """A JSON object, or what else is wanted. Raises JobError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise JobError(f"{where}: {path.parent} has no {path.name}; is it a model?") from error
    except (OSError, ValueError) as error:
        raise JobError(f"{where}: {path} cannot be read: {error}") from error
    if not isinstance(data, kind):
        raise JobError(f"{where}: {path} is not a JSON {'object' if kind is dict else 'array'}")
    return data


def tensor_shapes(folder: Path, where: str) -> dict[str, list[int]]:
    """The shape of every tensor in the checkpoint, from the safetensors headers."""
    files = [folder / "model.safetensors"]
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        files_of = read_json(index, where).get("weight_map")
        if not isinstance(files_of, dict) or not all(isinstance(n, str) for n in files_of.values()):
            raise JobError(f"{where}: {index} has no weight_map of file names")
        names = set(files_of.values())
        if not all(map(is_name, names)):
            raise JobError(f"{where}: {index} names weights outside of the model's folder")
        files = [folder / name for name in sorted(names)]
    elif not files[0].is_file():
        pickles = sorted(p.name for p in folder.glob("*.bin")) + sorted(
            p.name for p in folder.glob("*.pt")
        )
        if pickles:
            raise JobError(
                f"{where}: its weights are pickled ({', '.join(pickles)}), and loading a pickle "
                "runs whatever code is in it; save the model with "
                "save_pretrained(folder, safe_serialization=True)"
            )
        raise JobError(f"{where}: {folder} has no model.safetensors")
    shapes: dict[str, list[int]] = {}
    for path in files:
        shapes |= safetensors_shapes(path, where)
    if shapes and all(name.startswith("module.") for name in shapes):
        raise JobError(
            f"{where}: its tensors are named module.…, as DataParallel names them; save the model "
            "that it wraps (model.module.save_pretrained(folder))"
        )
    return shapes


def safetensors_shapes(path: Path, where: str) -> dict[str, list[int]]:
    try:
        with safe_open(path, framework="numpy") as file:  # which maps the file and reads no weights
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise JobError(f"{where}: {path} is missing") from error
    except (OSError, SafetensorError) as error:
        raise JobError(
            f"{where}: {path} is not a whole safetensors file: {error}; if it was cut off, copy or "
            "download it again"
        ) from error


def check_head(config: dict[str, Any], shapes: dict[str, list[int]], gives: str, where: str) -> int:
    """The number of classes of rows or tokens. Raises JobError if there is no trained head."""
    wanted: tuple[str, ...] = HEADS.get(str(config.get("model_type")), ())
    if gives == "tokens":
        wanted = ("classifier.weight",) if wanted else ()
    absent = [name for name in wanted if name not in shapes]
    if absent:
        raise JobError(absent_tensors(absent, where))
    count = class_count(config, where)
    if wanted and shapes[wanted[-1]][0] != count:
        raise JobError(
            f"{where}: {wanted[-1]} has {shapes[wanted[-1]][0]} classes, config.json has {count}"
        )
    return count


def class_count(config: dict[str, Any], where: str) -> int:
    """The number of classes that config.json tells, by default as in transformers."""
    named = config.get("id2label") or {}
    if not isinstance(named, dict):
        raise JobError(f"{where}: id2label in config.json is not an object of classes")
    return len(named) or whole_number(config, where, "num_labels") or 2


def check_sizes(config: dict[str, Any], shapes: dict[str, list[int]], where: str) -> None:
    """Raises JobError if config.json names sizes that the weights cannot have.

    A model of that size would be built first, layer by layer, until the memory is full.
    """
    values = sum(math.prod(shape) for shape in shapes.values())
    for name, value in config.items():
        if not SIZE.search(name) or not isinstance(value, int):
            continue
        if value > (max(len(shapes), MANY_LAYERS) if "layers" in name else max(values, MANY)):
            shown = f"{value:,}" if value < 10**12 else f"a number of {len(str(value))} digits"
            raise JobError(
                f"{where}: {name} in config.json is {shown}, and its weights are "
                f"{len(shapes):,} tensors of {values:,} numbers; is config.json another model's?"
            )


def absent_tensors(names: list[str], where: str) -> str:
    return (
        f"{where}: the checkpoint lacks {shorten(names)}, and random numbers in their place "
        "would make the answers meaningless; fine-tune the model first, or name a fine-tuned "
        "checkpoint"
    )


def whole_number(config: dict[str, Any], where: str, *names: str) -> int | None:
    """The first of these keys that is set. Raises JobError if it is no count."""
    for name in names:
        value = config.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise JobError(f"{where}: {name} in config.json is {value!r}, not a whole number")
        return value
    return None
