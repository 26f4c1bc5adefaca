"""Loads a checked model into torch, once in each worker.

transformers fills tensors that a checkpoint lacks with random numbers; here such a checkpoint is
refused.
"""

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from bertbatch.errors import JobError
from bertbatch.model.adapter import ModelFiles, model_files
from bertbatch.model.checkpoint import (
    absent_tensors,
    as_job_errors,
)
from bertbatch.model.locate import locate
from bertbatch.model.spec import ModelSpec
from bertbatch.wording import shorten

log = logging.getLogger("bertbatch")

CLASSES = {
    "classes": "AutoModelForSequenceClassification",
    "tokens": "AutoModelForTokenClassification",
    "vectors": "AutoModel",
}
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
    where = f"model.name {spec.name}"
    if spec.onnx:
        raise JobError(f"{where}: it has model.onnx and no model.safetensors, which this needs")
    files = checked_files(spec, where)
    root, folder = files.root, files.encoder
    with as_job_errors(where, f"the model in {folder} cannot be loaded", folder):
        model, info = getattr(transformers, CLASSES[spec.asked.gives]).from_pretrained(
            folder,
            dtype=torch.float32 if files.adapter else getattr(torch, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are checked below
            attn_implementation=attention or _plain_attention(files.config),
            **({"num_labels": len(spec.labels)} if files.adapter and spec.labels else {}),
        )
    missing = info["missing_keys"]
    if spec.modules:  # vectors are made of hidden states
        missing = [name for name in missing if not name.startswith("pooler.")]
    others = info["mismatched_keys"]
    if files.adapter:  # it has what its head needs
        own = files.adapter.tensors
        missing = [name for name in missing if name not in own]
        others = [given for given in others if given[0] not in own]
    _check_tensors(
        missing,
        others,
        info["unexpected_keys"],
        # The encoder's own names have no prefix.
        [*(n for n, _ in model.named_children() if spec.modules), model.base_model_prefix],
        where,
    )
    if files.adapter:
        model = files.adapter.apply(model, where)
        for weight in model.parameters():  # frequencies of rotations stay in float32
            weight.data = weight.data.to(getattr(torch, dtype))
    if spec.modules:
        from bertbatch.model.embedder import Embedder

        with as_job_errors(where, f"the layers after the model in {root} cannot be loaded"):
            model = Embedder(model, root, spec.modules)
    return model.to(device).eval()


def checked_files(spec: ModelSpec, where: str) -> ModelFiles:
    """The files of a model on this node. Raises JobError if they differ from the checked ones."""
    root, _ = locate(spec.name, spec.revision, spec.storage_options)
    files = model_files(root, where)
    if files.hash(where) != spec.weights:
        raise JobError(
            f"{where}: {files.encoder} on this node holds a different model than on the driver; "
            "copy the same folder to every node"
        )
    return files


def _plain_attention(config: dict[str, Any]) -> str | None:
    """The attention to use where config.json asks for a kernel that may not be installed."""
    return None if config.get("attn_implementation") in (None, "eager", "sdpa") else "eager"


def _check_tensors(
    missing: Iterable[str],
    other_shapes: Iterable[tuple[str, Any, Any]],
    unused: Iterable[str],
    inner: Sequence[str],
    where: str,
) -> None:
    """Raises JobError if a checkpoint's tensors are not those of the model in its config.json.

    `other_shapes`: a name, the shape in the checkpoint, the shape by config.json. `inner` are the
    prefixes of the encoder's tensors. Other tensors that nothing uses, such as the head of another
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
    inside = [n for n in more if n.split(".")[0] in inner and "pooler" not in n.split(".")[:2]]
    if inside:
        raise JobError(
            f"{where}: the checkpoint has {shorten(inside)}, which the model that config.json "
            "describes does not have, so the answers would be another model's; is config.json the "
            "checkpoint's own?"
        )
    if more:
        log.info("%s: the classifier does not use %s", where, shorten(more))
