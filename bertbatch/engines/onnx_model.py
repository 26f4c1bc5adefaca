"""A graph in ONNX that answers as a model of transformers does."""

from functools import cached_property
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from bertbatch.engines.model_inputs import ModelInputs
from bertbatch.engines.openvino_core import core
from bertbatch.errors import JobError
from bertbatch.model.checkpoint import as_job_errors
from bertbatch.model.loading import checked_files
from bertbatch.model.onnx import onnx_graph
from bertbatch.model.spec import ModelSpec

INPUTS = ("input_ids", "attention_mask", "token_type_ids")


class OnnxModel:
    """`graph` is OpenVINO's. Raises JobError if the file is damaged, or another kind of model."""

    def __init__(self, spec: ModelSpec):
        where = f"model.name {spec.name}"
        path = onnx_graph(checked_files(spec, where).encoder)
        with as_job_errors(where, f"{path} cannot be read"):
            self.graph = core().read_model(path)
        self.names = [one.any_name for one in self.graph.inputs]
        others = [name for name in self.names if name not in INPUTS]
        if others or INPUTS[0] not in self.names:
            raise JobError(
                f"{where}: {path} takes {', '.join(self.names)}, and classifiers take "
                f"{', '.join(INPUTS)}; export it again for text classification"
            )
        outputs = [name for one in self.graph.outputs for name in sorted(one.names)]
        if "logits" not in outputs and len(self.graph.outputs) != 1:
            raise JobError(
                f"{where}: {path} gives {', '.join(outputs)}, and none is called logits; export it "
                "again for text classification"
            )
        self.output = next((i for i, o in enumerate(self.graph.outputs) if "logits" in o.names), 0)
        self._vocabulary = spec.vocabulary

    @cached_property
    def _compiled(self) -> Any:
        """In float32; only the worker that finds out how to batch asks for answers."""
        return core().compile_model(self.graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})

    def get_input_embeddings(self) -> Any:
        """The size of the table of embeddings, as config.json tells it."""
        if self._vocabulary is None:
            raise NotImplementedError
        return SimpleNamespace(num_embeddings=self._vocabulary)

    @property
    def inputs(self) -> ModelInputs:
        return ModelInputs("token_type_ids" in self.names, "attention_mask" in self.names)

    def __call__(self, **inputs: torch.Tensor) -> Any:
        """As a model of transformers: an object with `logits`, in float32."""
        ids = inputs["input_ids"]
        given = {
            name: inputs.get(name, torch.zeros_like(ids)).numpy().astype(np.int64)
            for name in self.names
        }
        answer = self._compiled.create_infer_request().infer(given)
        return SimpleNamespace(logits=torch.from_numpy(np.array(answer[self.output], np.float32)))
