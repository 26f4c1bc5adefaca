"""Which rows of a model may share a forward pass: tried on real text, not read off its name.

A text's answer must not depend on the texts beside it. Some models let it: their attention
has no mask, they mix neighbouring tokens, look for a token in a padded place, or change by
what they have seen before. The reference is the model as transformers has it, one text at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from bertbatch.engines.batching import Batching
from bertbatch.engines.devices import device_errors, there
from bertbatch.engines.engine import Engine
from bertbatch.engines.model_inputs import ModelInputs
from bertbatch.engines.probe import Probe, excess
from bertbatch.errors import DeviceLost, JobError, OutOfMemory
from bertbatch.model.spec import ModelSpec

ASSERTED = "device-side assert"  # what an index out of range is on a GPU


def choose(
    engine: Engine,
    allowed: Sequence[Batching],
    probe: Probe,
    wanted: np.ndarray,
    spec: ModelSpec,
    refused: Callable[[Batching, str], None] = lambda batching, why: None,
) -> str:
    """Readies an engine for the first way of batching that leaves answers alone.

    Returns why it is not an earlier one. `wanted` are the logits of the probe's rows alone,
    `refused` is told of each way that is out, and may raise. Raises JobError if none is left,
    OutOfMemory.
    """
    reasons: list[str] = []
    for batching in allowed:
        why = _refusal(engine, batching, probe, wanted, spec.problem_type)
        if why is None:
            return "; ".join(reasons)
        refused(batching, why)
        reasons.append(f"{batching.value}: {why}")
    raise JobError(
        f"model.name {spec.name}: a text's answer depends on the texts that are scored with it or "
        f"before it, so none would be right ({'; '.join(reasons)})"
    )


@torch.inference_mode()
def alone(
    model: Any, inputs: ModelInputs, probe: Probe, spec: ModelSpec, device: str = "cpu"
) -> np.ndarray:
    """The logits of each of a probe's rows, as transformers' model gives them for one text.

    Raises JobError if it cannot, OutOfMemory, DeviceLost.
    """
    rows = embedded_ids(model)
    if rows is not None and probe.vocabulary > rows:
        raise JobError(
            f"model.name {spec.name}: its tokenizer has ids up to {probe.vocabulary - 1}, the "
            f"model only {rows} embeddings; were tokens added without "
            "model.resize_token_embeddings, or is the tokenizer another model's?"
        )
    answers: dict[int, np.ndarray] = {}
    for row in np.argsort(
        -probe.tokens.lengths, kind="stable"
    ):  # what does not fit is known at once
        ids, lengths, _, types = probe.tokens.take(np.array([row]))
        made = inputs.made(ids, lengths, types, always_mask=True)
        try:
            with device_errors():
                sent = {name: there(array, device) for name, array in made.items()}
                logits = model(**sent).logits.float().cpu().numpy()
        except (OutOfMemory, JobError):
            raise
        except Exception as error:  # a model's own code raises anything
            if isinstance(error, DeviceLost) and ASSERTED not in str(error):
                raise  # the GPU may be at fault, not the model
            raise JobError(
                f"model.name {spec.name} ({type(model).__name__}): cannot score a text of "
                f"{len(ids)} tokens: {type(error).__name__}: {first_line(error)}; is "
                "model.max_length too large for it, or is it a model of another kind?"
            ) from error
        if logits.shape != (1, len(spec.labels)):
            raise JobError(
                f"model.name {spec.name} ({type(model).__name__}): its answer to one text has the "
                f"shape {logits.shape}, not one number for each of {len(spec.labels)} classes"
            )
        answers[int(row)] = logits[0]
    return np.stack([answers[row] for row in range(len(answers))])


def embedded_ids(model: Any) -> int | None:
    """How many token ids a model has an embedding for; None if it does not look them up."""
    try:
        table = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return getattr(table, "num_embeddings", None)


def _refusal(
    engine: Engine, batching: Batching, probe: Probe, wanted: np.ndarray, problem_type: str
) -> str | None:
    """Why rows must not be batched in this way; None if they may, and the engine is ready for it.

    Raises OutOfMemory, DeviceLost.
    """
    precision = "float32" if engine.dtype == "int8" else engine.dtype
    try:
        engine.use(batching)
        for rows in _groups(batching, probe.tokens.lengths):
            got = engine.start(*probe.tokens.take(rows)).logits()
            if got.shape[1:] != wanted.shape[1:]:
                return f"its answers have the shape {got.shape}"
            if excess(got, wanted[rows], problem_type, precision) > 1:
                off = float(np.abs(got - wanted[rows]).max())
                return f"its logits would be off by {off:.2g}"
    except (OutOfMemory, DeviceLost):
        raise
    except Exception as error:  # a model's own code raises anything where it cannot
        return first_line(error)
    return None


def first_line(error: BaseException) -> str:
    """An error in one line."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _groups(batching: Batching, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """Batches to try. Where state could be kept the longest row comes last once more."""
    order = np.argsort(-lengths, kind="stable")
    if batching is Batching.PACKED:
        yield order
        yield order[-1:]
        return
    if batching is Batching.PADDED:  # without padding all of them to the longest
        yield np.array(sorted({*order[:2], order[-1]}, key=lambda row: -lengths[row]))
        if len(order) > 3:
            yield order[2:-1]
    elif batching is Batching.EQUAL:
        for length in np.unique(lengths)[::-1]:
            yield np.flatnonzero(lengths == length)
    else:
        yield from order[:, None]
    yield order[:1]
