"""Compiles Triton kernels for GPUs that need not be there: what they take of a multiprocessor."""

import re
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# KiB of shared memory that a block may take, by compute capability: CUDA C++ Programming Guide,
# "Technical specifications per compute capability".
SHARED_KIB = {80: 163, 89: 99, 90: 227}
# Pointers to numbers of the model's type.
POINTERS = {"kinds", "query", "key", "value", "out", "keys", "queries", "scalars"}
OTHERS = {
    **dict.fromkeys(("counted",), "*i8"),
    **dict.fromkeys(("blocks", "ends", "places"), "*i32"),
    **dict.fromkeys(("normalizer", "sums", "factors"), "*fp32"),
    **{"stride": "i32", "distances": "i32", "scale": "fp32"},
}


@dataclass(frozen=True)
class Compiled:
    shared: int  # bytes
    registers: int  # a thread
    spilled: int  # bytes


def compile_for(kernel: Any, capability: int, dtype: str, run: Any, **constants: int) -> Compiled:
    """`dtype` as Triton writes it, such as "bf16"; `run` is a `Launch`."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.backends.nvidia.compiler import get_ptxas
    from triton.compiler import ASTSource

    constants |= {"ROWS": run.rows, "KEYS": run.keys, "PRECISION": run.precision}
    types = {}
    for name in kernel.arg_names:
        if name in POINTERS:
            types[name] = f"*{'fp32' if kernel.arg_names[0] == 'sums' else dtype}"
        else:
            types[name] = OTHERS.get(name, "constexpr")
    values = {name: constants[name] for name, kind in types.items() if kind == "constexpr"}
    aligned = {
        (place,): [["tt.divisibility", 16]]
        for place, (name, kind) in enumerate(types.items())
        if "*" in kind or name == "stride"
    }
    source = ASTSource(kernel, types, values, aligned)
    options = {"num_warps": run.warps, "num_stages": run.stages}
    made = triton.compile(source, GPUTarget("cuda", capability, 32), options)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "ptx").write_text(made.asm["ptx"])
        architecture = f"-arch=sm_{capability}{'a' * (capability >= 90)}"
        command = [get_ptxas(capability).path, "-v", architecture, "ptx", "-o", "cubin"]
        log = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=True).stderr
    registers, spilled = (
        int(re.search(pattern, log)[1])  # type: ignore[index]
        for pattern in (r"Used (\d+) registers", r"(\d+) bytes spill stores")
    )
    return Compiled(made.metadata.shared, registers, spilled)
