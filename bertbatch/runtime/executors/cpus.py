"""The cores that this process may use, by affinity, then by the cgroup's CPU quota."""

import math
import os
from pathlib import Path


def available_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores or 1, max(math.floor(int(quota) / int(period)), 1))
    except (OSError, ValueError):
        pass  # no cgroup v2 here
    return cores or 1


def processor() -> str:
    """The processor's name, as Linux gives it."""
    return _cpuinfo("model n") or "CPU"


def can(instructions: str) -> bool:
    """Whether the processor has a set of instructions, as Linux names it: avx512f, amx_bf16."""
    return instructions in _cpuinfo("flags").split()


def _cpuinfo(key: str) -> str:
    """What Linux says of the first processor; empty if it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith(key))
    except (OSError, StopIteration):
        return ""
