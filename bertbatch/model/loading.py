"""Loads a checked model into torch, once in each worker.

transformers fills tensors that a checkpoint lacks with random numbers; here such a checkpoint is
refused.
"""

import logging
from collections.abc import Iterable
from typing import Any

from bertbatch.errors import JobError
from bertbatch.model.checkpoint import (
    absent_tensors,
    as_job_errors,
    read_json,
    weights_hash,
)
from bertbatch.model.locate import locate
from bertbatch.model.spec import ModelSpec
from bertbatch.wording import shorten

log = logging.getLogger("bertbatch")

# What a checkpoint may hold that its classifier does not use: tables that can be computed, and
# the layer over the first token that pre-training had.
UNUSED = ("position_ids", "token_type_ids", "inv_freq", "masked_bias")


def load(spec: ModelSpec, device: str, dtype: str, attention: str | None = None) -> Any:
    """The transformers model, on its device, in eval mode; `attention`: its implementation.

    Raises JobError if this node's copy differs from the checked one, or if the checkpoint does not
    belong to the model that its config.json describes.
    """
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder, _ = locate(spec.name, spec.revision, spec.storage_options)
    where = f"model.name {spec.name}"
    config = read_json(folder / "config.json", where)
    if weights_hash(folder, config) != spec.weights:
        raise JobError(
            f"{where}: {folder} on this node holds a different model than on the driver; copy "
            "the same folder to every node"
        )
    with as_job_errors(where, f"the model in {folder} cannot be loaded", folder):
        model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
            folder,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are checked below
            attn_implementation=attention or _plain_attention(config),
        )
    _check_tensors(
        info["missing_keys"],
        info["mismatched_keys"],
        info["unexpected_keys"],
        model.base_model_prefix,
        where,
    )
    return model.to(device).eval()


def _plain_attention(config: dict[str, Any]) -> str | None:
    """The attention to use where config.json asks for a kernel that may not be installed."""
    return None if config.get("attn_implementation") in (None, "eager", "sdpa") else "eager"


def _check_tensors(
    missing: Iterable[str],
    other_shapes: Iterable[tuple[str, Any, Any]],
    unused: Iterable[str],
    base: str,
    where: str,
) -> None:
    """Raises JobError if a checkpoint's tensors are not those of the model in its config.json.

    `other_shapes`: a name, the shape in the checkpoint, the shape by config.json. `base` is the
    prefix of the encoder's tensors. Other tensors that nothing uses, such as the head of another
    task, are named in the log.
    """
    for name, there, wanted in sorted(other_shapes, key=str):
        raise JobError(
            f"{where}: {name} has shape {list(there)} in the checkpoint, {list(wanted)} by "
            "config.json; is config.json the checkpoint's own?"
        )
    if absent := sorted(missing):
        raise JobError(absent_tensors(absent, where))
    more = sorted(name for name in unused if not name.endswith(UNUSED))
    inside = [name for name in more if name.startswith(f"{base}.") and ".pooler." not in name]
    if inside:
        raise JobError(
            f"{where}: the checkpoint has {shorten(inside)}, which the model that config.json "
            "describes does not have, so the answers would be another model's; is config.json the "
            "checkpoint's own?"
        )
    if more:
        log.info("%s: the classifier does not use %s", where, shorten(more))
