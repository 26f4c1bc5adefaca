"""How many cores this process may use: affinity, then the cgroup's CPU quota."""

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
