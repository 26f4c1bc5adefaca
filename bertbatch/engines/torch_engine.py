"""The forward pass in PyTorch, through transformers' own model code.

Batches are packed where the architecture allows, else padded. Whether packing and fusing
left the answers as they are is checked on every load, against the model as it was.
"""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bertbatch.batching import padded, segments
from bertbatch.engines import Running, packed
from bertbatch.engines.fused import FusedLinear, Int8Linear, compile_parts, fuse
from bertbatch.engines.products import Products
from bertbatch.engines.watched import Watch, Watching
from bertbatch.errors import JobError, OutOfMemory
from bertbatch.job import Model
from bertbatch.model import OFFSET_POSITIONS, ModelSpec, load

log = logging.getLogger("bertbatch")

# Small batches stay in a CPU's cache, and bfloat16 takes half the room of float32; a GPU needs
# large ones to be busy.
CPU_BUDGETS = {"bfloat16": (2048, 1024, 4096), "float32": (1024, 2048, 512)}
CUDA_BUDGETS = (32768, 16384, 65536, 131072)
# On CPUs every new number of tokens makes oneDNN generate its kernels anew (some 50 ms), so
# a batch is filled up to one of these many sizes.
SIZES = 16
# How far packed answers may be from the model's own, as a share of the largest logit.
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "float16": 0.03}
GAIN = 1.2  # times faster than float32 that bfloat16 must be: it is less exact
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
        if device == "cuda" and settings.dtype == "int8":
            raise JobError("model.dtype int8 is for CPUs; use auto, or runtime.device: cpu")
        if device == "cuda" and not torch.cuda.is_available():
            raise JobError("runtime.device is cuda, but torch sees no GPU on this machine")
        if device == "cpu" and settings.dtype == "float16":
            raise JobError(
                "model.dtype float16 is some hundred times slower than float32 on CPUs; "
                "use auto, float32 or bfloat16"
            )
        torch.set_num_threads(threads)
        self.device = device
        self.dtype = settings.dtype if settings.dtype != "auto" else fast_dtype(device)
        self._budget = settings.tokens_per_batch
        self._spec = spec
        self._compile = settings.compile
        self._watch = watch
        try:
            self._load()
        except OutOfMemory as error:
            raise JobError(
                f"model.name {spec.name}: no memory on {device} for the model and "
                f"{spec.max_length} tokens: {error}; free some, or set a smaller model.max_length"
            ) from error
        except RuntimeError as error:
            if settings.dtype != "auto" or self.dtype == "float32":
                raise JobError(f"model.name {spec.name}: cannot score: {error}") from error
            # Some architectures mix precisions in their own code.
            self.dtype = "float32"
            self._load()

    def _load(self) -> None:
        """Loads the model, and packs it if that leaves its answers alone.

        The rows tried have full length: what fails for them would fail for every long row.
        """
        spec = self._spec
        exact = "float32" if self.dtype == "int8" else self.dtype
        self.budgets = CPU_BUDGETS[exact] if self.device == "cpu" else CUDA_BUDGETS
        self.tokens_per_batch = self.budgets[0] if self._budget == "auto" else self._budget
        self.packs = False
        self._model = load(spec, self.device, exact)
        vocabulary = int(self._model.config.vocab_size)
        self._has_types = getattr(self._model.config, "type_vocab_size", 0) > 1
        ids = np.random.default_rng(0).integers(spec.pad_id + 1, vocabulary, spec.max_length)
        lengths = np.array([spec.max_length, 1 + spec.max_length // 3, 3])
        ids = np.concatenate([ids[:length] for length in lengths]).astype(np.int32)
        try:
            wanted = self.start(ids, lengths).logits()
        except IndexError as error:
            raise JobError(
                f"model.name {spec.name}: cannot take {spec.max_length} tokens: {error}; set a "
                "smaller model.max_length"
            ) from error
        try:
            self._pack()
            off = float(np.abs(self.start(ids, lengths).logits() - wanted).max())
            if off <= TOLERANCE[exact] * float(np.abs(wanted).max()):
                if self.dtype == "int8":
                    fuse(self._encoder, Int8Linear)
                    self.start(ids, lengths).logits()  # what cannot run fails here
                if self._watch:
                    self._check_watch(ids, lengths)
                return
            reason = f"its logits would be off by {off:.2g}"
        except (ValueError, TypeError, KeyError, AttributeError, RuntimeError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if self._watch:
            raise JobError(
                f"attention: {spec.name} ({type(self._model).__name__}) cannot give statistics: "
                f"{reason}; models shaped as BERT, RoBERTa, XLM-R, DistilBERT or ELECTRA can"
            )
        if self.dtype == "int8":
            raise JobError(f"model.dtype int8: {spec.name} cannot have it ({reason}); use auto")
        log.info("%s cannot be packed (%s): its batches are padded", spec.name, reason)
        self.packs = False
        self._model = load(spec, self.device, exact)

    def _pack(self) -> None:
        self._encoder = packed.pack(self._model)
        if self.device == "cpu" and self.dtype != "int8":  # rounded once packing is checked
            fuse(self._encoder, FusedLinear)
        elif self._compile:
            compile_parts(self._encoder)
        config = self._model.config
        self._offset = config.model_type in OFFSET_POSITIONS
        variable = self.device == "cuda" and self.dtype in HALF
        self._layout = packed.variable if variable else packed.by_length
        if self.device == "cpu" and self.dtype == "bfloat16" and not _has_tiles():
            self._layout = partial(packed.by_length, dense=Products(torch.get_num_threads()))
        self.packs = True

    def _check_watch(self, ids: np.ndarray, lengths: np.ndarray) -> None:
        """Raises ValueError if not every head of the model can be watched."""
        running = self.start(ids, lengths, watch=True)
        assert running.statistics
        heads = running.statistics()[0].shape[2]
        if heads != self._spec.layers * self._spec.heads:
            raise ValueError(
                f"{heads} heads were seen, its config.json tells of {self._spec.layers} layers "
                f"of {self._spec.heads}"
            )

    @torch.inference_mode()
    def start(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        seconds: np.ndarray | None = None,
        typed: bool = True,
        watch: bool = False,
    ) -> Running:
        seconds = lengths if seconds is None else seconds
        typed = typed and self._has_types and bool((seconds < lengths).any())
        with _memory():
            if self.packs:
                inputs, computed = self._packed(ids, lengths, seconds, typed, watch)
            else:
                inputs, computed = self._padded(ids, lengths, seconds, typed)
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
        self, ids: np.ndarray, lengths: np.ndarray, seconds: np.ndarray, typed: bool, watch: bool
    ) -> tuple[dict[str, Any], int]:
        total = self._size(len(ids))
        if watch:
            assert self._watch
            layout: Any = self._watch.layout(ids, lengths, seconds, total, self.device)
        else:
            layout = self._layout(lengths, total, self.device)
        inputs = np.full((2, total), self._spec.pad_id, np.int64)
        inputs[0, : len(ids)] = ids
        inputs[1, : len(ids)] = packed.positions(ids, lengths, self._spec.pad_id, self._offset)
        inputs[1, len(ids) :] = inputs[1, 0]
        both = packed.there(inputs, self.device)
        starts = np.cumsum(lengths) - lengths
        made = {
            "input_ids": both[:1],
            "position_ids": both[1:],
            "layout": layout,
            "first": packed.there(starts, self.device),
        }
        if typed:
            types = np.zeros((1, total), np.int64)
            types[0, : len(ids)] = np.arange(len(ids)) >= np.repeat(starts + seconds, lengths)
            made["token_type_ids"] = packed.there(types, self.device)
        return made, total

    def _padded(
        self, ids: np.ndarray, lengths: np.ndarray, seconds: np.ndarray, typed: bool
    ) -> tuple[dict[str, Any], int]:
        filled, mask = padded(ids, lengths, self._spec.pad_id)
        inputs = {"input_ids": packed.there(filled, self.device)}
        if not mask.all():
            inputs["attention_mask"] = packed.there(mask.astype(np.int64), self.device)
        if typed:
            types = segments(mask, seconds)
            inputs["token_type_ids"] = packed.there(types, self.device)
        return inputs, mask.size

    def _size(self, tokens: int) -> int:
        """How many tokens a packed batch is filled up to."""
        step = max(self.tokens_per_batch // SIZES, 1) if self.device == "cpu" else 1
        return -(-tokens // step) * step


def fast_dtype(device: str) -> str:
    """bfloat16 where this machine is clearly faster in it, else float32.

    On CPUs that is measured, in some 50 ms: a processor that has instructions for bfloat16
    may still be half as fast with them (Xeons whose AMX the virtual machine does not show).
    """
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    if not (torch.cpu._is_avx512_bf16_supported() or _has_tiles()):
        return "float32"
    half, single = (_product_seconds(dtype) for dtype in (torch.bfloat16, torch.float32))
    return "bfloat16" if GAIN * half < single else "float32"


def _product_seconds(dtype: torch.dtype) -> float:
    """The least seconds of several for a linear layer of bert-base over 512 tokens."""
    x, weight = torch.ones(512, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)

    def once() -> float:
        began = time.perf_counter()
        torch.mm(x, weight)
        return time.perf_counter() - began

    return min(once() for _ in range(6))


def _has_tiles() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())


def _numpy(layout: Watching) -> tuple[np.ndarray, np.ndarray]:
    with _memory(), torch.inference_mode():
        values, counts = layout.statistics()
        return values.cpu().numpy(), counts.cpu().numpy()


def _fetch(answer: Tensor, done: Any) -> np.ndarray:
    with _memory():
        done.synchronize()
    logits: np.ndarray = answer.numpy()
    return logits


@contextmanager
def _memory() -> Iterator[None]:
    """Turns both devices' ways of having no memory left into OutOfMemory."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise OutOfMemory(str(error)) from None
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise OutOfMemory(str(error)) from None
