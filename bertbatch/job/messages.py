"""Messages about wrong keys in a job file: where, what, what the key means."""

import difflib
from typing import Any, get_args

from pydantic import BaseModel


def explain(error: Any, model: type[BaseModel]) -> str:
    """One line for one validation error: the key, what is wrong, what the key means."""
    location = [str(part) for part in error["loc"]]
    if len(location) > 2 and location[0] == "models":  # the keys are those of each
        said = explain({**error, "loc": ("models", *location[2:])}, model)
        return said.replace("'models.", f"'models.{location[1]}.", 1)
    known = _known_keys(model)
    if error["type"] == "extra_forbidden":
        key = ".".join(location)
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5) or [
            k for k in known if k.rpartition(".")[2] == location[-1]
        ]
        hint = f"did you mean '{near[0]}' ({known[near[0]]})?" if near else ""
        siblings = [k for k in known if k.rpartition(".")[0] == ".".join(location[:-1])]
        return f"unknown key '{key}'; {hint or 'valid here: ' + ', '.join(siblings)}"
    key = next(
        (k for n in range(len(location), 0, -1) if (k := ".".join(location[:n])) in known),
        ".".join(location),
    )
    if error["type"] == "model_type":
        keys = [k for k in known if k.rpartition(".")[0] == key]
        return f"'{key}' is a section ({known[key]}) with the keys {', '.join(keys)}"
    what = error["msg"].removeprefix("Value error, ")
    if not key:
        return str(what)
    return f"'{key}': {what[0].lower() + what[1:]} ({known.get(key, 'see the documentation')})"


def _known_keys(model: type[BaseModel], prefix: str = "") -> dict[str, str]:
    """Every key of the job file with its meaning."""
    known: dict[str, str] = {}
    for field, info in model.model_fields.items():
        name = info.alias or field
        known[prefix + name] = info.description or ""
        for kind in (info.annotation, *get_args(info.annotation)):
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                known |= _known_keys(kind, f"{prefix}{name}.")
    return known
