"""The tests of engines, models, attention and a whole job on less than this processor can do.

`python -m tests.helpers.processors` runs them once for each lower instruction set that can be
stood in for here, in processes of their own: libraries read these variables when they are loaded.
What reads the processor's own list of what it can do is patched (`tests/conftest.py`).
"""

import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.paths import ROOT

TESTS = (
    "tests/answers/test_engines_agree.py",
    "tests/answers/test_int8_is_near_enough.py",
    "tests/answers/test_kernels.py",
    "tests/answers/test_models_agree_with_transformers.py",
    "tests/answers/test_missing_operators.py",
    "tests/answers/test_operators_are_chosen.py",
    "tests/attention/test_statistics_by_definition.py",
    "tests/exactly_once/test_old_outputs.py",
)
# OpenVINO and the compiler have no code for so little.
WITHOUT_AVX = "not openvino and not compiled and not measured and not other_answers and not up_to"
# The compiler and OpenVINO in bfloat16 ask the processor itself, then find kernels of another kind.
HALF_LIMITED = "not up_to and not compiled and not (openvino and bfloat16)"
PATCHED = "BERTBATCH_TEST_PROCESSOR"  # for conftest: the name of a stand-in


@dataclass(frozen=True)
class StandIn:
    """Fewer instructions than `above`, one of which this processor must have to tell it apart."""

    name: str
    above: tuple[str, ...]
    aten: str  # torch's own kernels
    onednn: str
    mkl: str = ""  # on Intel's processors only
    chosen: str = "not up_to"  # of the tests, as pytest's -k: long texts take minutes

    @property
    def environment(self) -> dict[str, str]:
        limits = {
            "ATEN_CPU_CAPABILITY": self.aten,
            "ONEDNN_MAX_CPU_ISA": self.onednn,
            "MKL_ENABLE_INSTRUCTIONS": self.mkl,
        }
        return {PATCHED: self.name, **{key: value for key, value in limits.items() if value}}


STAND_INS = (
    StandIn("no oneDNN", (), "", ""),  # ARM, macOS: torch's plain operators
    StandIn("SSE4.1", ("avx2",), "default", "SSE41", "SSE4_2", WITHOUT_AVX),
    StandIn("AVX2", ("avx512f",), "avx2", "AVX2", "AVX2", HALF_LIMITED),
    StandIn("AVX512 without VNNI", ("avx512_vnni",), "", "AVX512_CORE"),
    StandIn("AVX512 without bfloat16", ("avx512_bf16",), "", "AVX512_CORE_VNNI"),
    StandIn("AVX512 without AMX", ("amx_tile",), "", "AVX512_CORE_BF16"),
)


def flags() -> set[str]:
    """What this processor can do, by Linux's list."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    found = next((line for line in lines if line.startswith("flags")), "")
    return set(found.partition(":")[2].split())


def main() -> int:
    have = flags()
    failed = []
    for stand_in in STAND_INS:
        if not set(stand_in.above) <= have:
            print(f"{stand_in.name}: this processor has no more than that; not tried", flush=True)
            continue
        began = time.monotonic()
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"),
                *("-k", stand_in.chosen, *TESTS),
            ],
            cwd=ROOT,
            env={**os.environ, **stand_in.environment},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            failed.append(stand_in.name)
            print(done.stdout[-6000:], done.stderr[-2000:])
        last = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else "nothing ran"
        print(f"{stand_in.name}: {last} ({time.monotonic() - began:.0f} s)", flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "all stand-ins passed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
