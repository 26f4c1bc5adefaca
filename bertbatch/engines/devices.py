"""Errors of the devices that tensors are on."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import torch

from bertbatch.errors import DeviceLost, JobError, OutOfMemory

# Errors of a GPU, as torch, its kernel libraries and its compiler word them.
OF_GPU = re.compile(r"(CUDA|HIP)( driver)? error|Triton Error|cuDNN error|CUBLAS_STATUS")
NO_MEMORY = re.compile(r"can't allocate memory|out of memory|ALLOC_FAILED", re.IGNORECASE)
NO_KERNEL = "no kernel image is available"


@contextmanager
def device_errors() -> Iterator[None]:
    """Turns a device's errors into OutOfMemory or DeviceLost; others are raised unchanged.

    Raises JobError if torch has no kernels for the GPU.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        with suppress(RuntimeError):  # if the GPU is lost, the next batch fails
            torch.cuda.empty_cache()
        raise OutOfMemory(str(error)) from None
    except RuntimeError as error:
        text = str(error).strip().partition("\n")[0]
        if NO_MEMORY.search(text):
            raise OutOfMemory(text) from None
        of_gpu = isinstance(error, torch.AcceleratorError) or OF_GPU.search(text)
        if of_gpu and NO_KERNEL in text:
            raise JobError(
                f"torch {torch.__version__} has no kernels for the {torch.cuda.get_device_name()} "
                "here: install a build of torch that has, or set runtime.device: cpu"
            ) from None
        if of_gpu and _is_lost(text):
            raise DeviceLost(text) from None
        raise


def check_gpu() -> None:
    """Computes something on the GPU. Raises JobError if there is none that works, DeviceLost."""
    if not torch.cuda.is_available():
        raise JobError(
            "runtime.device is cuda, but torch sees no GPU on this machine; use auto or cpu"
        )
    with device_errors():
        (torch.ones(1, device="cuda") + 1).cpu()


def _is_lost(text: str) -> bool:
    """Whether every further call would fail, too. After a rejected argument none would."""
    if "ECC" in text:
        return True
    try:
        torch.cuda.synchronize()
    except Exception:
        return True
    return False
