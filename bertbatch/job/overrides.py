"""Keys that are changed on the command line: `--set a.b=c`."""

from typing import Any

from bertbatch.errors import JobError
from bertbatch.job.safe_yaml import read_yaml


def override(data: Any, change: str) -> None:
    """Sets one key of a job's nested dicts in place; `change` is a.b=c. Raises JobError."""
    key, equals, value = change.partition("=")
    if not equals or not key:
        raise JobError(f"--set {key}: must look like model.max_length=256")
    *sections, last = key.strip().split(".")
    for section in sections:
        inner: Any = data.setdefault(section, {}) if isinstance(data, dict) else None
        if isinstance(data, list) and section.isdecimal() and int(section) < len(data):
            inner = data[int(section)]
        data = inner
        if not isinstance(data, dict | list):
            raise JobError(f"--set {key}: '{section}' is not a section")
    if not isinstance(data, dict):
        raise JobError(f"--set {key}: '{last}' is not a key of a list; write the whole list")
    try:
        data[last] = read_yaml(value)
    except ValueError:
        data[last] = value  # a comma, a bar or a tab mean themselves; so does a 30 February
