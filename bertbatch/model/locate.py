"""Finds a model's folder by its name: packaged, local, at a URL or on the Hugging Face Hub."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from bertbatch.errors import JobError
from bertbatch.model.checkpoint import TOKENIZER_FILES, WEIGHT_FILES
from bertbatch.model.download import download
from bertbatch.model.onnx import BELOW, GRAPHS, WEIGHTS
from bertbatch.storage.stores import public

PACKAGED = Path(__file__).parent / "packaged"
OF_MODULES = ("modules.json", "sentence_*_config.json", "config_sentence_transformers.json")
WANTED = (
    *WEIGHT_FILES,
    "*.safetensors",
    "config.json",
    *TOKENIZER_FILES,
    *OF_MODULES,
    "adapter_config.json",
)


def locate(
    name: str, revision: str | None, storage_options: dict[str, Any] | None = None
) -> tuple[Path, str | None]:
    """The folder on this machine with a model, and its revision.

    The revision of a Hub model is a commit, of one at a URL the version that `download` tells.
    Raises JobError if there is none.
    """
    if name.replace("_", "-") in packaged():
        return PACKAGED / name.replace("-", "_"), None
    if "://" in name:
        if public(name) != name:
            raise JobError(
                f"model.name {public(name)}: a URL is stored with the output; give its password in "
                "model.storage_options"
            )
        return download(name, revision, storage_options or {}, WANTED)
    if not name.strip():
        known = ", ".join(packaged())
        raise JobError(f"model.name is empty; name a folder, or a packaged model: {known}")
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder.resolve(), None
    if folder.is_file() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        known = ", ".join(packaged())
        raise JobError(
            f"model.name {name}: no such folder; name a folder with config.json and "
            f"model.safetensors, its URL, a Hugging Face Hub id, or a packaged model: {known}"
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        # Below the folder are the layers of an embedding model.
        wanted = [*WANTED, *(f"[0-9]_*/{name}" for name in WANTED)]
        path = Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
        if not any(path.rglob(f"*{WEIGHTS}")):
            wanted += [*GRAPHS, *(f"{BELOW}/{name}" for name in GRAPHS)]
            path = Path(snapshot_download(name, revision=path.name, allow_patterns=wanted))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        near = get_close_matches(name, packaged(), n=1)
        hint = f" (do you mean {near[0]}?)" if near else ""
        raise JobError(
            f"model.name {name}: neither a packaged model nor a local folder{hint}, and the "
            f"Hugging Face Hub did not provide it ({reason}); without a network, name the folder "
            "of a model that you have downloaded"
        ) from error
    return path, path.name  # a snapshot's folder is named after its commit


def packaged() -> list[str]:
    """The names of the models that come with the package."""
    return sorted(p.parent.name.replace("_", "-") for p in PACKAGED.glob("*/config.json"))
