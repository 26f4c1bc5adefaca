"""The forward pass on OpenVINO, converted in memory from the transformers model."""

import sys
import warnings
from typing import Any

import numpy as np
import torch

from bertbatch.batching import padded, segments
from bertbatch.engines import Running
from bertbatch.engines.torch_engine import fast_dtype
from bertbatch.engines.watched import Watch
from bertbatch.errors import JobError
from bertbatch.job import Model
from bertbatch.model import ModelSpec, load

PRECISION = {"float32": "f32", "bfloat16": "bf16"}


class OpenVinoEngine:
    name = "openvino"
    device = "cpu"
    packs = False
    budgets = (1024, 2048, 512)

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
        try:
            import openvino
        except ImportError as error:
            raise JobError(
                "model.engine openvino: it is not installed on this machine; install "
                "'bertbatch[openvino]', or leave model.engine at auto"
            ) from error
        if device != "cpu":
            raise JobError("model.engine openvino runs on CPUs; set runtime.device: cpu")
        if settings.dtype not in ("auto", *PRECISION):
            raise JobError(f"model.engine openvino has no dtype {settings.dtype}; use auto")
        torch.set_num_threads(threads)
        self.dtype = fast_dtype(device) if settings.dtype == "auto" else settings.dtype
        budget = settings.tokens_per_batch
        self.tokens_per_batch = self.budgets[0] if budget == "auto" else budget
        self._pad_id = spec.pad_id
        example = torch.full((2, 8), spec.pad_id + 1)
        inputs = {"input_ids": example, "attention_mask": torch.ones_like(example)}
        model = load(spec, "cpu", "float32", "eager")
        self._has_types = getattr(model.config, "type_vocab_size", 0) > 1
        if self._has_types:
            inputs["token_type_ids"] = torch.zeros_like(example)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the tracer's, about shapes it will see change
                graph = openvino.convert_model(model, example_input=inputs)
            compiled = openvino.Core().compile_model(
                graph,
                "CPU",
                {
                    "INFERENCE_PRECISION_HINT": PRECISION[self.dtype],
                    "INFERENCE_NUM_THREADS": threads,
                    "PERFORMANCE_HINT": "LATENCY",
                    "NUM_STREAMS": "1",
                },
            )
            self._request: Any = compiled.create_infer_request()
            self.start(np.full(spec.max_length, spec.pad_id + 1), np.array([spec.max_length]))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise JobError(
                f"model.engine openvino cannot run {spec.name}: {reason}; use model.engine: torch"
            ) from error

    def start(
        self,
        ids: np.ndarray,
        lengths: np.ndarray,
        seconds: np.ndarray | None = None,
        typed: bool = True,
        watch: bool = False,
    ) -> Running:
        filled, mask = padded(ids, lengths, self._pad_id)
        inputs = [filled, mask.astype(np.int64)]
        if self._has_types:
            inputs.append(segments(mask, seconds if typed and seconds is not None else lengths))
        answer = self._request.infer(inputs, share_inputs=True)[0]
        logits = np.array(answer, np.float32)
        return Running(mask.size, lambda: logits)
