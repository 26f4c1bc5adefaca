"""The forward pass in OpenVINO.

The transformers model is converted in memory; a graph in ONNX is read. Batches are padded.
"""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from bertbatch.engines.batching import Batching, real_places
from bertbatch.engines.engine import EngineOptions, Running
from bertbatch.engines.model_inputs import ModelInputs
from bertbatch.engines.onnx_model import OnnxModel
from bertbatch.engines.openvino_core import core
from bertbatch.engines.precision import fast_dtype
from bertbatch.engines.probe import Probe
from bertbatch.engines.row_independence import choose_batching, single_text_answers
from bertbatch.errors import JobError, first_line
from bertbatch.model.loading import load
from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Answers, Batch

log = logging.getLogger("bertbatch")

PRECISION = {"float32": "f32", "bfloat16": "bf16"}
CANDIDATES = (Batching.PADDED, Batching.EQUAL, Batching.SINGLE)


class OpenVinoEngine:
    name = "openvino"
    device = "cpu"
    budgets: tuple[int, ...] = (1024, 2048, 512)

    def __init__(self, spec: ModelSpec, options: EngineOptions):
        if options.statistics:
            raise JobError("model.engine openvino gives no attention statistics; use torch or auto")
        torch.set_num_threads(options.threads)
        dtype, budget = options.settings.dtype, options.settings.tokens_per_batch
        self._auto = dtype == "auto"
        self.dtype = fast_dtype(self.device) if dtype == "auto" else dtype
        self.tokens_per_batch = self.budgets[0] if budget == "auto" else budget
        self.batching, self.reason = Batching.SINGLE, "not tried yet"
        self.operators: dict[str, str] = {}
        self.per_token = spec.asked.gives == "tokens"
        self._threads = options.threads
        self._spec = spec
        if spec.onnx:
            self._model: Any = OnnxModel(spec)
            self._inputs = self._model.inputs
        else:
            self._model = load(spec, "cpu", "float32", "eager")
            self._inputs = ModelInputs.of(self._model)

    def settle(self, probe: Probe, known: Mapping[str, Any] | None = None) -> None:
        self._inputs.padding = probe.padding
        expected = (
            None if known else single_text_answers(self._model, self._inputs, probe, self._spec)
        )
        if known:  # another worker may have found that it must be float32
            self.dtype = known["dtype"]
        self._compile(probe)
        if known:
            self.batching, self.reason = Batching(known["batching"]), known["reason"]
        else:
            assert expected is not None
            self._choose(probe, expected)
        self._model = None

    def _choose(self, probe: Probe, expected: Answers) -> None:
        """Finds out how to batch, in float32 if it must be, and the job leaves that open."""
        try:
            self.reason = choose_batching(self, CANDIDATES, probe, expected, self._spec)
        except JobError as error:
            if not self._auto or self.dtype == "float32":
                raise
            log.info("%s in %s: %s; float32 instead", self._spec.name, self.dtype, error)
            self.dtype = "float32"
            self._compile(probe)
            self.reason = choose_batching(self, CANDIDATES, probe, expected, self._spec)

    def use(self, batching: Batching) -> None:
        self.batching = batching

    def _compile(self, probe: Probe) -> None:
        """Compiles the model. Raises JobError if OpenVINO cannot run it."""
        try:
            self._compile_graph(probe)
        except (JobError, MemoryError):
            raise
        except Exception as error:  # OpenVINO's own, of no common kind
            raise JobError(
                f"model.engine openvino cannot run {self._spec.name}: {first_line(error)}; use "
                "model.engine: torch"
            ) from error

    def _compile_graph(self, probe: Probe) -> None:
        if self._spec.onnx:
            graph, self._names = self._model.graph, self._model.names
        else:
            graph, self._names = self._converted(probe)
        compiled = core().compile_model(
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
        self._output = self._model.output if self._spec.onnx else 0

    def _converted(self, probe: Probe) -> tuple[Any, list[str]]:
        """The model as OpenVINO's, traced with two equal rows of the probe, and its arguments."""
        core()  # before the converter is imported
        import openvino

        tokens = probe.tokens
        middle = np.argsort(tokens.lengths, kind="stable")[len(tokens.lengths) // 2]
        example = self._inputs.padded(tokens.take(np.array([middle, middle])), always_mask=True)
        with _logging_kept(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the tracer warns about shapes that will change
            graph = openvino.convert_model(
                self._model,
                example_input={name: torch.from_numpy(array) for name, array in example.items()},
            )
        return graph, list(example)

    def start(self, batch: Batch) -> Running:
        arguments = self._inputs.padded(batch, always_mask=True)
        ids = arguments["input_ids"]
        if "token_type_ids" in self._names:
            arguments.setdefault("token_type_ids", np.zeros(ids.shape, np.int64))
        inputs = [arguments[name] for name in self._names]
        answer = self._request.infer(inputs, share_inputs=True)[self._output]
        values = np.array(answer, np.float32)
        if self.per_token:
            values = values[real_places(batch.lengths, self._inputs.padding.left)]
        return Running(ids.size, lambda: values)


@contextmanager
def _logging_kept() -> Iterator[None]:
    """The root logger stays as it is, which OpenVINO's converter does not see to if it fails."""
    root = logging.getLogger()
    level, handlers, filters = root.level, root.handlers[:], root.filters[:]
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:], root.filters[:] = handlers, filters
