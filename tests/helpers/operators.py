"""Processors and builds that lack an operator, stood in for."""

from typing import Any

import pytest

from bertbatch.engines import int8, linear_operators, native_layers
from bertbatch.native import kernels as native
from bertbatch.runtime import kinds


def remove(names: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the operators of these names, as on a processor or a build that lacks them."""

    def absent(*_: Any) -> Any:
        raise AttributeError("'_OpNamespace' 'mkldnn' object has no attribute")

    for name in names:
        monkeypatch.setattr(linear_operators.LINEAR[name], "__init__", absent)
    if linear_operators.NATIVE in names:
        for module in (int8, linear_operators, native_layers, native):
            monkeypatch.setattr(module, "find_kernels", lambda level=None: None)
        monkeypatch.setattr(kinds, "_device_name", kinds._device_name.__wrapped__)
