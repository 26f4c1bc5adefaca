"""The forward pass on OpenVINO, converted in memory from the transformers model."""

import sys
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from bertbatch.engines.attention_stats import Watch
from bertbatch.engines.batching import Batching
from bertbatch.engines.engine import Running
from bertbatch.engines.model_inputs import ModelInputs
from bertbatch.engines.precision import fast_dtype
from bertbatch.engines.probe import Probe
from bertbatch.engines.row_independence import alone, choose, first_line
from bertbatch.errors import JobError
from bertbatch.job.schema import Model
from bertbatch.model.spec import ModelSpec, load

PRECISION = {"float32": "f32", "bfloat16": "bf16"}
ALLOWED = (Batching.PADDED, Batching.EQUAL, Batching.SINGLE)


class OpenVinoEngine:
    name = "openvino"
    device = "cpu"
    packs = False
    budgets: tuple[int, ...] = (1024, 2048, 512)

    def __init__(
        self,
        spec: ModelSpec,
        settings: Model,
        device: str,
        threads: int,
        watch: Watch | None = None,
    ):
        if watch:
            raise JobError("model.engine openvino gives no attention statistics; use torch or auto")
        # The converter would report its use over the network if this package were there.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        torch.set_num_threads(threads)
        self.dtype = fast_dtype(device) if settings.dtype == "auto" else settings.dtype
        budget = settings.tokens_per_batch
        self.tokens_per_batch = self.budgets[0] if budget == "auto" else budget
        self.batching, self.reason = Batching.SINGLE, "not tried yet"
        self._threads = threads
        self._spec = spec
        self._model: Any = load(spec, "cpu", "float32", "eager")
        self._inputs = ModelInputs(self._model)

    def settle(self, probe: Probe, known: Mapping[str, Any] | None = None) -> None:
        self._inputs.padding = probe.padding
        wanted = None if known else alone(self._model, self._inputs, probe, self._spec)
        try:
            self._compile(probe)
        except (RuntimeError, ValueError, TypeError) as error:
            raise JobError(
                f"model.engine openvino cannot run {self._spec.name}: {first_line(error)}; use "
                "model.engine: torch"
            ) from error
        if known:
            self.batching, self.reason = Batching(known["batching"]), known["reason"]
            return
        assert wanted is not None
        self.reason = choose(self, ALLOWED, probe, wanted, self._spec)

    def use(self, batching: Batching) -> None:
        self.batching = batching

    def _compile(self, probe: Probe) -> None:
        """Converts the model; it is traced with two equal rows of the probe."""
        import openvino

        tokens = probe.tokens
        middle = np.argsort(tokens.lengths, kind="stable")[len(tokens.lengths) // 2]
        ids, lengths, _, types = tokens.take(np.array([middle, middle]))
        made = self._inputs.made(ids, lengths, types, always_mask=True)
        self._names = list(made)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer's, about shapes it will see change
            graph = openvino.convert_model(
                self._model,
                example_input={name: torch.from_numpy(array) for name, array in made.items()},
            )
        compiled = openvino.Core().compile_model(
            graph,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": PRECISION[self.dtype],
                "INFERENCE_NUM_THREADS": self._threads,
                "PERFORMANCE_HINT": "LATENCY",
                "NUM_STREAMS": "1",
            },
        )
        self._request: Any = compiled.create_infer_request()
        self._model = None

    def start(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        seconds: np.ndarray | None = None,
        types: np.ndarray | None = None,
        watch: bool = False,
    ) -> Running:
        made = self._inputs.made(ids, lengths, types, always_mask=True)
        size = made["input_ids"].size
        if "token_type_ids" in self._names and "token_type_ids" not in made:
            made["token_type_ids"] = np.zeros(made["input_ids"].shape, np.int64)
        inputs = [made[name] for name in self._names]
        answer = self._request.infer(inputs, share_inputs=True)[0]
        logits = np.array(answer, np.float32)
        return Running(size, lambda: logits)
