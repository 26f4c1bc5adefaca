"""Which rows of a model may share a forward pass, found by trying.

A text's answer must not depend on other texts. With some models it does: their attention has no
mask, they mix neighbouring tokens, search for a token among the padding, or keep state from
earlier batches. Neither the model's name nor its configuration tells, so real text is scored. The
reference is transformers' own model with one text at a time.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from bertbatch.engines.batching import Batching
from bertbatch.engines.devices import device_errors
from bertbatch.engines.engine import Engine
from bertbatch.engines.model_inputs import ModelInputs
from bertbatch.engines.packing import to_device
from bertbatch.engines.precision import EXACT
from bertbatch.engines.probe import Probe, excess
from bertbatch.errors import DeviceLost, JobError, OutOfMemory, first_line
from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Answers, Batch, joined
from bertbatch.tasks.task import task_of

ASSERTED = "device-side assert"  # a GPU's error for an index out of range


def choose_batching(
    engine: Engine,
    candidates: Sequence[Batching],
    probe: Probe,
    expected: Answers,
    spec: ModelSpec,
    on_rejected: Callable[[Batching, str], None] = lambda batching, why: None,
) -> str:
    """Sets an engine to the first way of batching that does not change any answer.

    Returns why the candidates before it were rejected. `expected` are the answers to the probe's
    rows from `single_text_answers`. `on_rejected` is called for each rejected candidate, with
    the reason, and may raise. Raises JobError if all are rejected, OutOfMemory, DeviceLost.
    """
    reasons: list[str] = []
    for batching in candidates:
        why = _rejection(engine, batching, probe, expected, spec.problem_type)
        if why is None:
            return "; ".join(reasons)
        on_rejected(batching, why)
        reasons.append(f"{batching.value}: {why}")
    raise JobError(
        f"model.name {spec.name}: a text's answer depends on the texts that are scored with it or "
        f"before it, so no answer would be reliable ({'; '.join(reasons)}); use another model"
    )


@torch.inference_mode()
def single_text_answers(
    model: Any, inputs: ModelInputs, probe: Probe, spec: ModelSpec, device: str = "cpu"
) -> Answers:
    """The answers to a probe's rows from transformers' model, one row at a time.

    Raises JobError if the model cannot score one of them, OutOfMemory, DeviceLost.
    """
    rows = embedded_ids(model)
    if rows is not None and probe.vocabulary > rows:
        raise JobError(
            f"model.name {spec.name}: its tokenizer has ids up to {probe.vocabulary - 1}, the "
            f"model only {rows} embeddings; were tokens added without "
            "model.resize_token_embeddings, or is the tokenizer another model's?"
        )
    shape, per_token = task_of(spec).shape, spec.asked.gives == "tokens"
    answers: dict[int, Answers] = {}
    # The longest first: it shows at once whether memory suffices.
    for row in np.argsort(-probe.tokens.lengths, kind="stable"):
        batch = probe.tokens.take(np.array([row]))
        padded = inputs.padded(batch, always_mask=True)
        try:
            with device_errors():
                sent = {name: to_device(array, device) for name, array in padded.items()}
                logits = model(**sent).logits.float().cpu().numpy()
        except (OutOfMemory, JobError):
            raise
        except Exception as error:  # a model's own code raises anything
            if isinstance(error, DeviceLost) and ASSERTED not in str(error):
                raise  # the GPU may be at fault, not the model
            raise JobError(
                f"model.name {spec.name} ({type(model).__name__}): cannot score a text of "
                f"{len(batch.ids)} tokens: {type(error).__name__}: {first_line(error)}; is "
                "model.max_length too large for it, or is it a model of another kind?"
            ) from error
        wanted = (1, len(batch.ids), *shape) if per_token else (1, *shape)
        if logits.shape != wanted:
            raise JobError(
                f"model.name {spec.name} ({type(model).__name__}): its answer to one text has the "
                f"shape {logits.shape}, not {wanted}; is it a model for {spec.asked.task}?"
            )
        ends = np.array([0, len(batch.ids)]) if per_token else None
        answers[int(row)] = Answers(logits[0] if per_token else logits, ends)
    return joined([answers[row] for row in range(len(answers))], shape, per_token)


def embedded_ids(model: Any) -> int | None:
    """The number of token ids that a model has embeddings for; None if it has no such table."""
    try:
        table = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return getattr(table, "num_embeddings", None)


def difference(engine: Engine, batch: Batch, expected: np.ndarray, problem_type: str) -> str | None:
    """How an engine's answer to a batch differs from the expected values; None if it does not.

    An error of the model's code is such a difference. Raises OutOfMemory, DeviceLost.
    """
    precision = EXACT.get(engine.dtype, engine.dtype)
    try:
        got = engine.start(batch).answer()
    except (OutOfMemory, DeviceLost):
        raise
    except Exception as error:  # models, kernels and compilers raise anything
        return first_line(error)
    if got.shape != expected.shape:
        return f"its answers have the shape {got.shape}"
    if excess(got, expected, problem_type, precision) <= 1:
        return None
    return f"its answers would be off by {np.abs(got - expected).max():.2g}"


def _rejection(
    engine: Engine, batching: Batching, probe: Probe, expected: Answers, problem_type: str
) -> str | None:
    """Why a way of batching is rejected; None if it is not, and the engine is set to it.

    Raises OutOfMemory, DeviceLost.
    """
    try:
        engine.use(batching)
    except (OutOfMemory, DeviceLost):
        raise
    except Exception as error:  # a model's own code raises anything
        return first_line(error)
    found = (
        difference(engine, probe.tokens.take(rows), expected.take(rows).values, problem_type)
        for rows in _groups(batching, probe.tokens.lengths)
    )
    return next((why for why in found if why is not None), None)


def _groups(batching: Batching, lengths: np.ndarray) -> Iterator[np.ndarray]:
    """The batches to try. One row is repeated at the end, to show whether a model keeps state."""
    order = np.argsort(-lengths, kind="stable")
    if batching is Batching.PACKED:
        yield order
        yield order[-1:]
        return
    if batching is Batching.PADDED:  # a few rows: all of them would be padded to the longest
        yield np.array(sorted({*order[:2], order[-1]}, key=lambda row: -lengths[row]))
        if len(order) > 3:
            yield order[2:-1]
    elif batching is Batching.EQUAL:
        for length in np.unique(lengths)[::-1]:
            yield np.flatnonzero(lengths == length)
    else:
        yield from order[:, None]
    yield order[:1]
