"""The Triton kernels compiled for GPUs that are not there: `make test-kernels`."""

import os

import pytest
import torch

pytest.importorskip("triton", reason="Triton is not installed: make test-kernels")
if os.environ.get("TRITON_INTERPRET") == "1":
    pytest.skip("the interpreter compiles nothing", allow_module_level=True)

from bertbatch.engines import fused_kernels, fused_relative, relative_kernel
from bertbatch.engines.fused_blocks import SIZES
from bertbatch.engines.fused_statistics import launch
from tests.helpers.gpu_compiler import SHARED_KIB, compile_for

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@pytest.mark.parametrize("capability", SHARED_KIB)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_a_kernel_fits_a_multiprocessor(size, dtype, capability):
    """Its shared memory is there, which the compiler does not check, and nothing is spilled."""
    run = launch(size, DTYPES[dtype], divmod(capability, 10))
    for kernel in (fused_kernels.attend, fused_kernels.receive):
        made = compile_for(kernel, capability, dtype, run, HEADS=12, SIZE=size)
        assert made.shared <= SHARED_KIB[capability] << 10
        assert made.spilled == 0
        assert made.registers <= 255


@pytest.mark.parametrize("capability", SHARED_KIB)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("tables", ["keys and queries", "scalars"])
def test_attention_by_distances_fits_a_multiprocessor(tables, size, dtype, capability):
    run = fused_relative.launch(size, DTYPES[dtype])
    added = tables == "scalars"
    wide = 2 * max(run.rows, run.keys)
    given = {"KEYED": not added, "QUERIED": not added, "ADDED": added, "WIDE": wide}
    made = compile_for(relative_kernel.attend, capability, dtype, run, HEADS=12, SIZE=size, **given)
    assert made.shared <= SHARED_KIB[capability] << 10
    assert made.spilled == 0
    assert made.registers <= 255


@pytest.mark.parametrize("heads", [2, 12, 16])
def test_sums_are_folded(heads):
    run = launch(32, torch.float32, (8, 0))
    power = 1 << (heads - 1).bit_length()
    shape = {"HEADS": heads, "HEADS_2": power, "STATISTICS": 14, "STATISTICS_2": 16}
    assert compile_for(fused_kernels.fold, 80, "fp32", run, **shape).spilled == 0
