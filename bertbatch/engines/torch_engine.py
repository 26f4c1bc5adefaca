"""The forward pass in PyTorch, by transformers' own model code.

Batches are packed if the architecture allows it. Before anything is scored, probe rows show how
rows may be batched, and that packing and fusing do not change answers.
"""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bertbatch.engines import fp8, int8, packing
from bertbatch.engines.attention_stats import StatsLayout
from bertbatch.engines.batching import Batching, real_places
from bertbatch.engines.devices import check_gpu, device_errors
from bertbatch.engines.engine import EngineOptions, Running
from bertbatch.engines.fused_linear import add_biases, compile_parts, fuse, uncompile_parts
from bertbatch.engines.joint_linear import join
from bertbatch.engines.linear_operators import ONE_DNN
from bertbatch.engines.model_inputs import NO_PADDING, ModelInputs
from bertbatch.engines.one_pass_choice import try_one_pass
from bertbatch.engines.operator_choice import choose_operators, seconds_for
from bertbatch.engines.operators import ATTENTION, TORCH, layout_by, replace_linears, replace_norms
from bertbatch.engines.precision import EXACT, fast_dtype
from bertbatch.engines.probe import Probe
from bertbatch.engines.quantization import check_answers, check_products, linears
from bertbatch.engines.row_independence import choose_batching, difference, single_text_answers
from bertbatch.errors import DeviceLost, JobError, OutOfMemory, first_line
from bertbatch.model.loading import load
from bertbatch.model.spec import OFFSET_POSITIONS, ModelSpec
from bertbatch.model.tokens import Batch, Tokens
from bertbatch.native.kernels import find_kernels

log = logging.getLogger("bertbatch")

# Small batches stay in a CPU's cache, where bfloat16 takes half the space of float32. A GPU needs
# large batches to be busy.
CPU_BUDGETS = {"bfloat16": (2048, 1024, 4096), "float32": (1024, 2048, 512)}
CUDA_BUDGETS = (32768, 16384, 65536, 131072)
# oneDNN generates new kernels for every new number of tokens (about 50 ms), so a batch is
# filled up to one of this many sizes.
SIZES = 16
HALF = ("bfloat16", "float16")  # the types of the kernel for sequences of different lengths


class TorchEngine:
    name = "torch"

    def __init__(self, spec: ModelSpec, options: EngineOptions):
        self.device = options.device
        self._settings = options.settings
        self._spec = spec
        self._statistics = options.statistics
        self._expected_tokens = options.expected_tokens
        self.operators: dict[str, str] = {}
        self.per_token = spec.asked.gives == "tokens"
        self._padding = NO_PADDING
        self.batching, self.reason = Batching.SINGLE, "not tried yet"
        if self.device == "cuda":
            check_gpu()
        torch.set_num_threads(options.threads)
        dtype = self._settings.dtype
        self._load(fast_dtype(self.device) if dtype == "auto" else dtype)

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
                    f"model.name {self._spec.name}: cannot score: {first_line(error)}; use "
                    "model.dtype: auto, or another model"
                ) from error
            # Some architectures mix precisions in their own code, or need float32.
            log.info("%s in %s: %s; float32 instead", self._spec.name, self.dtype, error)
            self._load("float32")
            self._settle(probe, None)

    def _settle(self, probe: Probe, known: Mapping[str, Any] | None) -> None:
        self._padding = self._inputs.padding = probe.padding
        self._probe_batch = _longest_first(probe.tokens)
        self.operators = dict(known["operators"]) if known else {}
        if known:
            self.use(Batching(known["batching"]))
            self.reason = known["reason"]
            if self.dtype in EXACT:
                self._round()
            self._speed_up_statistics()
            return
        if self.dtype == "int8":
            self._check_products(self._in_int8(), int8.Int8Linear, int8.formula)
        expected = single_text_answers(self._model, self._inputs, probe, self._spec, self.device)
        self.reason = choose_batching(
            self, list(Batching), probe, expected, self._spec, self._on_rejected
        )
        if self._statistics:
            self._check_statistics()
        if self.dtype in EXACT:
            self._check_rounding(probe)
        self._speed_up_statistics()

    def use(self, batching: Batching) -> None:
        if self._changed:  # packing and fusing cannot be undone
            self._load(self.dtype)
        self.batching = batching
        if batching is Batching.PACKED:
            self._pack()

    def _load(self, dtype: str) -> None:
        """Loads the model, not packed yet."""
        self.dtype = dtype
        self._exact = exact = EXACT.get(dtype, dtype)
        self.budgets: tuple[int, ...] = CPU_BUDGETS[exact] if self.device == "cpu" else CUDA_BUDGETS
        budget = self._settings.tokens_per_batch
        self.tokens_per_batch = self.budgets[0] if budget == "auto" else budget
        if dtype == "fp8" and (why := fp8.too_old()):
            raise JobError(f"model.dtype fp8: {why}; use auto")
        with device_errors():
            self._model = load(self._spec, self.device, exact)
        self._inputs = ModelInputs.of(self._model, self._padding)
        self._changed = False

    def _on_rejected(self, batching: Batching, why: str) -> None:
        """Raises JobError if batches cannot be packed and the job needs that."""
        if batching is not Batching.PACKED:
            return
        name = f"{self._spec.name} ({type(self._model).__name__})"
        if self._statistics:
            raise JobError(
                f"attention: {name} cannot give statistics: {why}; docs/models.md "
                "lists the models that can"
            )
        if self.dtype in EXACT:
            raise JobError(
                f"model.dtype {self.dtype}: {name} does not support it ({why}); use auto"
            )

    def _pack(self) -> None:
        self._layout: Callable[..., Any] = packing.by_length
        self._changed = True
        one_token = self._spec.asked.gives == "classes"
        self._packing = packing.Packing(self._model, one_token, self._spec.max_length)
        self._encoder = self._packing.encoder
        self._pad_id = packing.position_padding(self._model, self._spec.pad_id)
        self._offset = self._model.config.model_type in OFFSET_POSITIONS
        if self.device == "cuda":
            self._pack_for_gpu()
            return
        add_biases(self._encoder)
        join(self._encoder)
        if not self.operators:
            seconds = seconds_for(self._expected_tokens, self._encoder)
            self.operators = choose_operators(
                self._encoder, self._spec.heads, self.tokens_per_batch, seconds
            )
        if not self._packing.relative:
            self._layout = layout_by(self.operators.get(ATTENTION, TORCH))
        replace_norms(self._encoder, self.operators)
        if self.dtype != "int8":  # weights are rounded after packing is checked
            replace_linears(self._encoder, self.operators)

    def _pack_for_gpu(self) -> None:
        """Attention in one kernel, joint products, compiled parts if asked for: if answers stay.

        Each is tried: they depend on the GPU, the heads' size, torch and a C compiler. Without
        them batches are packed all the same.
        """
        batch, problem_type = self._probe_batch, self._spec.problem_type
        expected = self.start(batch).answer()
        if self._packing.relative or self._exact in HALF:
            self._layout = packing.in_one_kernel if self._packing.relative else packing.variable
            if why := difference(self, batch, expected, problem_type):
                log.info("%s: attention runs by groups of lengths: %s", self._spec.name, why)
                self._layout = packing.by_length
        separate = join(self._encoder)
        if why := difference(self, batch, expected, problem_type):
            log.info("%s: query, key and value are three products: %s", self._spec.name, why)
            separate()
        if self._settings.compile:
            compile_parts(self._encoder)
            if why := difference(self, batch, expected, problem_type):
                log.warning("model.compile: %s is not compiled: %s", self._spec.name, why)
                uncompile_parts(self._encoder)

    def _check_statistics(self) -> None:
        """Raises JobError if the statistics do not cover every head of the model."""
        try:
            heads = self._probe_statistics().shape[2]
        except (OutOfMemory, DeviceLost):
            raise
        except Exception as error:
            self._on_rejected(Batching.PACKED, first_line(error))
            raise
        if heads != self._spec.layers * self._spec.heads:
            self._on_rejected(
                Batching.PACKED,
                f"{heads} heads were found, its config.json has {self._spec.layers} layers of "
                f"{self._spec.heads}",
            )

    def _speed_up_statistics(self) -> None:
        """Where there are kernels, statistics take one pass, if that gives what tiles give."""
        if not self._statistics or (self.device == "cpu" and find_kernels() is None):
            return
        probed = self._probe_statistics
        why = try_one_pass(self._statistics, self.device, probed, self._spec.heads, self._exact)
        if why:
            log.info("%s: attention statistics by tiles, which is slower: %s", self._spec.name, why)

    def _probe_statistics(self) -> np.ndarray:
        running = self.start(replace(self._probe_batch, with_statistics=True))
        assert running.statistics
        return running.statistics()[0]

    def _in_int8(self) -> Iterable[nn.Linear]:
        """The layers that will be in int8. Raises JobError if there are none."""
        try:
            return int8.in_int8(linears(self._model))
        except ValueError as error:
            raise JobError(f"model.dtype int8: {error}; use auto or {self._exact}") from error

    def _check_products(
        self,
        layers: Iterable[nn.Linear],
        make: Callable[[nn.Linear], nn.Module],
        formula: Callable[[nn.Linear, Tensor], Tensor],
    ) -> None:
        try:
            check_products(layers, make, formula)
        except (AttributeError, RuntimeError, ValueError) as error:
            raise JobError(
                f"model.dtype {self.dtype}: {first_line(error)}; use auto or {self._exact}"
            ) from error

    def _round(self) -> None:
        """Rounds the weights."""
        if self.dtype == "fp8":
            found = (layer for _, _, layer in fp8.replaced(self._encoder))
            self._check_products(found, fp8.Fp8Linear, fp8.formula)
            fp8.replace_layers(self._encoder)
        else:
            fuse(self._encoder, int8.rounded)

    def _check_rounding(self, probe: Probe) -> None:
        """Rounds the weights. Raises JobError if answers are then too far off."""
        batch = _longest_first(probe.sample or probe.tokens)
        expected = self.start(batch).answer()
        self._round()
        got = self.start(batch).answer()
        try:
            check_answers(got, expected, self._spec.problem_type)
        except ValueError as error:
            raise JobError(
                f"model.dtype {self.dtype}: {self._spec.name} loses too much: {error}; use auto or "
                f"{self._exact}"
            ) from error

    @torch.inference_mode()
    def start(self, batch: Batch) -> Running:
        with device_errors():
            if self.batching is Batching.PACKED:
                inputs, computed = self._packed(batch)
            else:
                padded = self._inputs.padded(batch)
                inputs = {
                    name: packing.to_device(array, self.device) for name, array in padded.items()
                }
                computed = padded["input_ids"].size
            values = self._values(self._model(**inputs).logits, batch).float()
            statistics = partial(_numpy, inputs["layout"]) if batch.with_statistics else None
            if self.device == "cpu":
                return Running(computed, lambda: values.numpy(), statistics)
            answer = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
            answer.copy_(values, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        return Running(computed, lambda: _fetch(answer, done), statistics)

    def _values(self, logits: Tensor, batch: Batch) -> Tensor:
        """A model's output without padding."""
        if not self.per_token:
            return logits
        if self.batching is Batching.PACKED:
            return logits[0, : len(batch.ids)]
        mask = real_places(batch.lengths, self._padding.left)
        return logits[packing.to_device(mask, self.device)]

    def _packed(self, batch: Batch) -> tuple[dict[str, Any], int]:
        """The model's arguments for a packed batch, and its number of tokens."""
        step = max(self.tokens_per_batch // SIZES, 1) if ONE_DNN in self.operators.values() else 1
        total = -(-len(batch.ids) // step) * step
        if batch.with_statistics:
            assert self._statistics
            layout: Any = self._statistics.layout(batch, total, self.device)
        else:
            layout = self._layout(batch.lengths, total, self.device)
        inputs = packing.packed_inputs(batch, total, self._pad_id, self._offset)
        sent = packing.to_device(inputs, self.device)
        arguments = {
            "input_ids": sent[:1],
            "position_ids": sent[1:2],
            "layout": layout,
        }
        starts = packing.to_device(np.cumsum(batch.lengths) - batch.lengths, self.device)
        self._packing.batch(layout, starts, len(batch.ids))
        if self._spec.asked.gives == "vectors":
            arguments |= {"starts": starts, "used": len(batch.ids)}
        if self._inputs.has_types and batch.types is not None:
            arguments["token_type_ids"] = sent[2:]
        return arguments, total


def _longest_first(tokens: Tokens) -> Batch:
    return tokens.take(np.argsort(-tokens.lengths, kind="stable"))


def _numpy(layout: StatsLayout) -> tuple[np.ndarray, np.ndarray]:
    with device_errors(), torch.inference_mode():
        values, counts = layout.statistics()
        return values.cpu().numpy(), counts.cpu().numpy()


def _fetch(answer: Tensor, done: Any) -> np.ndarray:
    with device_errors():
        done.synchronize()
    logits: np.ndarray = answer.numpy()
    return logits
