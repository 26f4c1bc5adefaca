"""What commands print with `--json`: one object."""

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


def show_json(content: Mapping[str, Any]) -> None:
    print(json.dumps(plain(content), ensure_ascii=False))


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers that are none become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
