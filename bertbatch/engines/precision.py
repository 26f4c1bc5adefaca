"""The fastest precision of a processor.

It is measured: having instructions for bfloat16 does not mean that they are fast.
"""

import time

import torch

# What is rounded to fewer bits is loaded in this precision, and everything else stays in it.
EXACT = {"int8": "float32", "fp8": "bfloat16"}
GAIN = 1.2  # bfloat16 must be this many times faster than float32: it is less exact


def fast_dtype(device: str) -> str:
    """bfloat16 where it is clearly faster, else float32 on CPUs and float16 on GPUs.

    On CPUs it is measured, in about 50 ms: a processor with instructions for bfloat16 may still
    be half as fast with them (Xeons whose AMX is hidden by the virtual machine).
    """
    if device == "cuda":
        # Old GPUs emulate it: slow, and the attention kernels reject it.
        exact = torch.cuda.is_bf16_supported(including_emulation=False)
        return "bfloat16" if exact else "float16"
    if not (torch.cpu._is_avx512_bf16_supported() or _has_tiles()):
        return "float32"
    half, single = (_product_seconds(dtype) for dtype in (torch.bfloat16, torch.float32))
    return "bfloat16" if GAIN * half < single else "float32"


def times_slower(device: str, dtype: str) -> float:
    """How many times slower than float32 a CPU multiplies in bfloat16; 1 in any other case."""
    if device != "cpu" or dtype != "bfloat16":
        return 1.0
    return _product_seconds(torch.bfloat16) / _product_seconds(torch.float32)


def _product_seconds(dtype: torch.dtype) -> float:
    """Seconds for a linear layer of bert-base over 512 tokens; the least of several runs."""
    x, weight = torch.ones(512, 768, dtype=dtype), torch.ones(768, 768, dtype=dtype)

    def once() -> float:
        began = time.perf_counter()
        torch.mm(x, weight)
        return time.perf_counter() - began

    return min(once() for _ in range(6))


def _has_tiles() -> bool:
    return bool(torch.cpu._is_amx_tile_supported())
