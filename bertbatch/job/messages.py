"""Messages about wrong keys in a job file: where, what, what the key means.

pydantic finds what is wrong; what it says of that is for programmers, and is not shown.
"""

import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

Location = tuple[str | int, ...]

QUOTED = 40  # characters of a text that is shown
_MUST = {
    "string_type": "text",
    "string_unicode": "text without halves of characters",
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "a whole number"),
    "int_parsing_size": "a whole number with fewer digits",
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    "finite_number": "a number that is not endless",
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    "list_type": "a list",
    "dict_type": "a section of keys with values",
    "literal_error": "{expected}",
    "greater_than": "above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "below {lt:g}",
    "less_than_equal": "at most {le:g}",
}
_PATTERNS = {  # what keys with a pattern must be
    "run": "letters, digits, dots, hyphens and underscores, and begin with a letter or digit",
    "models.as": "text without slashes, backslashes and control characters",
}


@dataclass(frozen=True)
class Problem:
    """Something wrong with a job: which key, and what is said of it."""

    location: Location
    said: str


def problems(error: ValidationError, model: type[BaseModel]) -> Iterator[Problem]:
    """Each wrong key once: what is wrong, what was found there, what the key means."""
    known = _known_keys(model)
    found: dict[Location, list[Any]] = {}
    for one in error.errors(include_url=False):
        place = tuple(one["loc"])
        if one["type"] not in ("extra_forbidden", "invalid_key"):
            place = next(
                (place[:n] for n in range(len(place), 0, -1) if _name(place[:n]) in known), ()
            )
        found.setdefault(place, []).append(one)
    for place, errors in found.items():
        yield Problem(place, _said(place, errors, known))


def of_option(error: ValidationError) -> str:
    """What is wrong with the value of a command line's option."""
    errors = error.errors(include_url=False)
    if errors[0]["type"] == "value_error":
        return str(errors[0]["ctx"]["error"])
    must = " or ".join(dict.fromkeys(_must(one, "") for one in errors))
    return f"must be {must}; found {_found(errors[0], '')}"


def _name(place: Location) -> str:
    """A key of the job file, as it is described: those of `models` are those of each."""
    keys = [str(key) for key in place]
    return ".".join([keys[0], *keys[2:]] if keys[:1] == ["models"] and keys[2:] else keys)


def _said(place: Location, errors: list[Any], known: dict[str, str]) -> str:
    key, name = ".".join(map(str, place)), _name(place)
    first = errors[0]
    kind, what = first["type"], known.get(name, "")
    if kind in ("extra_forbidden", "invalid_key"):
        return _unknown(key, name, known)
    if kind == "missing":
        return f"'{key}' is missing ({what})"
    if kind == "model_type":
        keys = [k for k in known if k.rpartition(".")[0] == name]
        item = _item(first, place)
        found = _found(first, name)
        return f"'{key}'{item} is a section with the keys {', '.join(keys)}; found {found} ({what})"
    if kind == "value_error":
        said = str(first["ctx"]["error"])
        return f"'{key}': {said} ({what})" if key else said
    if items := [one for one in errors if _item(one, place)]:
        first, errors = items[0], items[:1]  # it may be a list, and is one
    must = " or ".join(dict.fromkeys(_must(one, name) for one in errors))
    return f"'{key}'{_item(first, place)} must be {must}; found {_found(first, name)} ({what})"


def _item(error: Any, place: Location) -> str:
    """Which item of a key's list an error is about, if it is about one."""
    last = error["loc"][-1]
    return f", item {last + 1}," if isinstance(last, int) and len(error["loc"]) > len(place) else ""


def _unknown(key: str, name: str, known: dict[str, str]) -> str:
    above, _, last = name.rpartition(".")
    others = known.keys() - {above}
    near = difflib.get_close_matches(name, others, n=1, cutoff=0.5) or [
        k for k in known if k.rpartition(".")[2] == last
    ]
    if near:
        return f"unknown key '{key}'; did you mean '{near[0]}' ({known[near[0]]})?"
    siblings = [k for k in known if k.rpartition(".")[0] == above]
    return f"unknown key '{key}'; valid here: {', '.join(siblings)}"


def _must(error: Any, name: str) -> str:
    if error["type"] == "string_pattern_mismatch":
        return _PATTERNS[name]
    return _MUST.get(error["type"], "another value").format(**error.get("ctx", {}))


def _found(error: Any, name: str) -> str:
    """What was found instead; what may be a secret, and a long text, by its kind alone."""
    value = error["input"]
    if value is None:
        return "nothing"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        quote = isinstance(next(iter(value.values()), 0), type(None))
        return "a section" + ("; put a value with braces in quotes" if quote else "")
    if isinstance(value, str):
        short = len(value) <= QUOTED and "storage_options" not in name
        return f"{value!r}" if short else "a text"
    shown = str(value).lower() if isinstance(value, bool) else f"{value}"[:QUOTED]
    return shown + ("; put it in quotes" if error["type"] == "string_type" else "")


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
