"""The forward pass in PyTorch, through transformers' own model code."""

import numpy as np
import torch

from bertbatch.errors import JobError
from bertbatch.job import Model
from bertbatch.model import ModelSpec, load

# Small batches stay in a CPU's cache; a GPU needs large ones to be busy.
TOKENS_PER_BATCH = {"cpu": 1024, "cuda": 32768}


class TorchEngine:
    name = "torch"

    def __init__(self, spec: ModelSpec, settings: Model, device: str, threads: int):
        if device == "cuda" and not torch.cuda.is_available():
            raise JobError("runtime.device is cuda, but torch sees no GPU on this machine")
        if device == "cpu" and settings.dtype == "float16":
            raise JobError(
                "model.dtype float16 is some hundred times slower than float32 on CPUs; "
                "use auto, float32 or bfloat16"
            )
        torch.set_num_threads(threads)
        self.device = device
        self.dtype = settings.dtype if settings.dtype != "auto" else _fast_dtype(device)
        budget = settings.tokens_per_batch
        self.tokens_per_batch = TOKENS_PER_BATCH[device] if budget == "auto" else budget
        self._model = load(spec, device, self.dtype)
        try:
            self._try_out(spec)
        except RuntimeError as error:
            if settings.dtype != "auto" or self.dtype == "float32":
                raise JobError(f"model.name {spec.name}: cannot score: {error}") from error
            # Some architectures mix precisions in their own code.
            self.dtype = "float32"
            self._model = load(spec, device, self.dtype)
            self._try_out(spec)

    def _try_out(self, spec: ModelSpec) -> None:
        """One forward pass of full length: what fails here would fail for every long row."""
        ids = np.full((1, spec.max_length), spec.pad_id + 1, np.int64)
        try:
            self.logits(ids, np.ones(ids.shape, bool))
        except IndexError as error:
            raise JobError(
                f"model.name {spec.name}: cannot take {spec.max_length} tokens: {error}; set a "
                "smaller model.max_length"
            ) from error

    @torch.inference_mode()
    def logits(self, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        answer = self._model(
            input_ids=torch.from_numpy(ids).to(self.device),
            attention_mask=torch.from_numpy(mask).to(self.device, torch.int64),
        )
        logits: np.ndarray = answer.logits.float().cpu().numpy()
        return logits


def _fast_dtype(device: str) -> str:
    """bfloat16 where the processor computes in it, else float32."""
    if device == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float16"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"
