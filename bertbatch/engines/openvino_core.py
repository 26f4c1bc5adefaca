"""OpenVINO's core, one for the whole process.

Each core that compiles a model gives the thread a stack for signals, and takes it away when it
ends. Of two, the first to end frees the stack that the second then goes back to: the next signal,
such as Ctrl-C, would end the process.
"""

import sys
from functools import cache
from typing import Any


@cache
def core() -> Any:
    """The core. The first call imports OpenVINO."""
    # If this package could be imported, the converter would report its use over the network.
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
    import openvino

    return openvino.Core()
