"""The forward pass in PyTorch, through transformers' own model code.

Batches are packed where the architecture allows. How rows are batched, and that packing and
fusing left the answers as they are, is tried before anything is scored.
"""

import logging
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertbatch.engines import int8, packing
from bertbatch.engines.attention_stats import Watch, Watching
from bertbatch.engines.batching import Batching
from bertbatch.engines.bmm_attention import Products
from bertbatch.engines.devices import check_gpu, device_errors, there
from bertbatch.engines.engine import Running
from bertbatch.engines.fused_linear import (
    FusedLinear,
    can_fuse,
    compile_parts,
    fuse,
    uncompile_parts,
)
from bertbatch.engines.model_inputs import ModelInputs
from bertbatch.engines.precision import fast_dtype, multiplies_in_vectors
from bertbatch.engines.probe import Probe, excess
from bertbatch.engines.row_independence import alone, choose, first_line
from bertbatch.errors import DeviceLost, JobError, OutOfMemory
from bertbatch.job.schema import Model
from bertbatch.model.loading import load
from bertbatch.model.spec import OFFSET_POSITIONS, ModelSpec

log = logging.getLogger("bertbatch")

# Small batches stay in a CPU's cache, and bfloat16 takes half the room of float32; a GPU needs
# large ones to be busy.
CPU_BUDGETS = {"bfloat16": (2048, 1024, 4096), "float32": (1024, 2048, 512)}
CUDA_BUDGETS = (32768, 16384, 65536, 131072)
# On CPUs every new number of tokens makes oneDNN generate its kernels anew (some 50 ms), so
# a batch is filled up to one of these many sizes.
SIZES = 16
HALF = ("bfloat16", "float16")  # what the kernel for sequences of different lengths takes


class TorchEngine:
    name = "torch"

    def __init__(
        self,
        spec: ModelSpec,
        settings: Model,
        device: str,
        threads: int,
        watch: Watch | None = None,
    ):
        if device == "cuda" and not torch.cuda.is_available():
            raise JobError("runtime.device is cuda, but torch sees no GPU on this machine")
        if device == "cuda":
            check_gpu()
        torch.set_num_threads(threads)
        self.device = device
        self._settings = settings
        self._spec = spec
        self._watch = watch
        self.batching, self.reason = Batching.SINGLE, "not tried yet"
        self._load(fast_dtype(device) if settings.dtype == "auto" else settings.dtype)

    def settle(self, probe: Probe, known: Mapping[str, Any] | None = None) -> None:
        if known and known["dtype"] != self.dtype:
            self._load(known["dtype"])
        try:
            self._settle(probe, known)
        except OutOfMemory as error:
            raise JobError(
                f"model.name {self._spec.name}: no memory on {self.device} for the model and "
                f"{self._spec.max_length} tokens: {error}; free some, or set a smaller "
                "model.max_length"
            ) from error
        except (JobError, RuntimeError) as error:
            lost = isinstance(error.__cause__, DeviceLost)
            if self._settings.dtype != "auto" or self.dtype == "float32" or lost:
                if isinstance(error, JobError):
                    raise
                raise JobError(
                    f"model.name {self._spec.name}: cannot score: {first_line(error)}"
                ) from error
            # Some architectures mix precisions in their own code, or need the finer one.
            log.info("%s in %s: %s; float32 instead", self._spec.name, self.dtype, error)
            self._load("float32")
            self._settle(probe, None)

    def _settle(self, probe: Probe, known: Mapping[str, Any] | None) -> None:
        self._inputs.padding = probe.padding
        self._tried = probe.tokens.take(np.argsort(-probe.tokens.lengths, kind="stable"))
        if known:
            self.use(Batching(known["batching"]))
            self.reason = known["reason"]
            if self.dtype == "int8":
                fuse(self._encoder, int8.Int8Linear)
            return
        if self.dtype == "int8":
            self._check_products()
        wanted = alone(self._model, self._inputs, probe, self._spec, self.device)
        self.reason = choose(self, list(Batching), probe, wanted, self._spec, self._refused)
        if self._watch:
            self._check_watch(probe)
        if self.dtype == "int8":
            self._round(probe)

    def use(self, batching: Batching) -> None:
        """Makes ready for batches of this kind. Raises whatever the model's code does."""
        if self._changed:  # packing and fusing cannot be undone
            self._load(self.dtype)
        self.batching = batching
        if batching is Batching.PACKED:
            self._pack()

    def _load(self, dtype: str) -> None:
        """Loads the model as transformers has it."""
        self.dtype = dtype
        exact = "float32" if dtype == "int8" else dtype
        self.budgets: tuple[int, ...] = CPU_BUDGETS[exact] if self.device == "cpu" else CUDA_BUDGETS
        budget = self._settings.tokens_per_batch
        self.tokens_per_batch = self.budgets[0] if budget == "auto" else budget
        with device_errors():
            self._model = load(self._spec, self.device, exact)
        padding = getattr(getattr(self, "_inputs", None), "padding", None)
        self._inputs = ModelInputs(self._model)
        if padding:
            self._inputs.padding = padding
        self._changed = False

    def _refused(self, batching: Batching, why: str) -> None:
        """Raises JobError if the job asks for what only packed batches give."""
        if batching is not Batching.PACKED:
            return
        name = f"{self._spec.name} ({type(self._model).__name__})"
        if self._watch:
            raise JobError(
                f"attention: {name} cannot give statistics: {why}; models shaped as BERT, "
                "RoBERTa, XLM-R, DistilBERT or ELECTRA can"
            )
        if self.dtype == "int8":
            raise JobError(f"model.dtype int8: {name} cannot have it ({why}); use auto")

    def _pack(self) -> None:
        self._changed = True
        self._encoder = packing.pack(self._model)
        self._offset = self._model.config.model_type in OFFSET_POSITIONS
        self._layout: Callable[..., Any] = packing.by_length
        if self.device == "cuda":
            self._pack_for_gpu()
            return
        kind = torch.float32 if self.dtype in ("float32", "int8") else torch.bfloat16
        if self.dtype != "int8":  # rounded once packing is checked
            if can_fuse(kind):
                fuse(self._encoder, FusedLinear)
        elif self._settings.compile:
            compile_parts(self._encoder)
        if self.dtype == "bfloat16" and multiplies_in_vectors():
            self._layout = partial(packing.by_length, dense=Products(torch.get_num_threads()))

    def _pack_for_gpu(self) -> None:
        """Attention in one kernel, and compiled parts if asked for, where answers stay the same.

        What these need of the GPU, the heads' size, torch and a C compiler is not looked up but
        tried; without them batches are packed all the same.
        """
        wanted = self.start(*self._tried).logits()
        if self.dtype in HALF:
            self._layout = packing.variable
            if why := self._differs(wanted):
                log.info("%s: attention goes by groups of lengths: %s", self._spec.name, why)
                self._layout = packing.by_length
        if self._settings.compile:
            compile_parts(self._encoder)
            if why := self._differs(wanted):
                log.warning("model.compile: %s is not compiled: %s", self._spec.name, why)
                uncompile_parts(self._encoder)

    def _differs(self, wanted: np.ndarray) -> str | None:
        """Why the rows tried have other answers than wanted, or none at all.

        Raises OutOfMemory, DeviceLost.
        """
        try:
            got = self.start(*self._tried).logits()
        except (OutOfMemory, DeviceLost):
            raise
        except Exception as error:  # kernels and compilers raise anything
            return first_line(error)
        if excess(got, wanted, self._spec.problem_type, self.dtype) <= 1:
            return None
        return f"its logits would be off by {np.abs(got - wanted).max():.2g}"

    def _check_watch(self, probe: Probe) -> None:
        """Raises JobError if not every head of the model can be watched."""
        try:
            rows = np.argsort(-probe.tokens.lengths, kind="stable")
            running = self.start(*probe.tokens.take(rows), watch=True)
            assert running.statistics
            heads = running.statistics()[0].shape[2]
        except (OutOfMemory, DeviceLost):
            raise
        except Exception as error:
            self._refused(Batching.PACKED, first_line(error))
            raise
        if heads != self._spec.layers * self._spec.heads:
            self._refused(
                Batching.PACKED,
                f"{heads} heads were seen, its config.json tells of {self._spec.layers} layers "
                f"of {self._spec.heads}",
            )

    def _check_products(self) -> None:
        try:
            int8.check_products(self._model, int8.Int8Linear)
        except (AttributeError, RuntimeError, ValueError) as error:
            raise JobError(f"model.dtype int8: {first_line(error)}; use auto or float32") from error

    def _round(self, probe: Probe) -> None:
        """Rounds the weights. Raises JobError if answers are then too far off."""
        sample = probe.sample or probe.tokens
        rows = np.argsort(-sample.lengths, kind="stable")
        wanted = self.start(*sample.take(rows)).logits()
        fuse(self._encoder, int8.Int8Linear)
        got = self.start(*sample.take(rows)).logits()
        try:
            int8.check_answers(got, wanted, self._spec.problem_type)
        except ValueError as error:
            raise JobError(
                f"model.dtype int8: {self._spec.name} loses too much: {error}; use auto or float32"
            ) from error

    @torch.inference_mode()
    def start(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        seconds: np.ndarray | None = None,
        types: np.ndarray | None = None,
        watch: bool = False,
    ) -> Running:
        seconds = lengths if seconds is None else seconds
        with device_errors():
            if self.batching is Batching.PACKED:
                inputs, computed = self._packed(ids, lengths, seconds, types, watch)
            else:
                made = self._inputs.made(ids, lengths, types)
                inputs, computed = self._sent(made), made["input_ids"].size
            logits = self._model(**inputs).logits.float()
            statistics = partial(_numpy, inputs["layout"]) if watch else None
            if self.device == "cpu":
                return Running(computed, lambda: logits.numpy(), statistics)
            answer = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True)
            answer.copy_(logits, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        return Running(computed, lambda: _fetch(answer, done), statistics)

    def _packed(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        seconds: np.ndarray,
        types: np.ndarray | None,
        watch: bool,
    ) -> tuple[dict[str, Any], int]:
        total = self._size(len(ids))
        if watch:
            assert self._watch
            layout: Any = self._watch.layout(ids, lengths, seconds, total, self.device)
        else:
            layout = self._layout(lengths, total, self.device)
        inputs = np.zeros((3, total), np.int64)
        inputs[0, : len(ids)] = ids
        inputs[1, : len(ids)] = packing.positions(ids, lengths, self._spec.pad_id, self._offset)
        # What fills the batch up is the first token again, which the model surely takes.
        inputs[:2, len(ids) :] = inputs[:2, :1]
        if types is not None:
            inputs[2, : len(ids)] = types
        sent = there(inputs, self.device)
        starts = np.cumsum(lengths) - lengths
        made = {
            "input_ids": sent[:1],
            "position_ids": sent[1:2],
            "layout": layout,
            "first": there(starts, self.device),
        }
        if self._inputs.has_types and types is not None:
            made["token_type_ids"] = sent[2:]
        return made, total

    def _sent(self, made: dict[str, np.ndarray]) -> dict[str, Tensor]:
        return {name: there(array, self.device) for name, array in made.items()}

    def _size(self, tokens: int) -> int:
        """How many tokens a packed batch is filled up to."""
        step = max(self.tokens_per_batch // SIZES, 1) if self.device == "cpu" else 1
        return -(-tokens // step) * step


def _numpy(layout: Watching) -> tuple[np.ndarray, np.ndarray]:
    with device_errors(), torch.inference_mode():
        values, counts = layout.statistics()
        return values.cpu().numpy(), counts.cpu().numpy()


def _fetch(answer: Tensor, done: Any) -> np.ndarray:
    with device_errors():
        done.synchronize()
    logits: np.ndarray = answer.numpy()
    return logits
