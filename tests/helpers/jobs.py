"""Jobs for the tests."""

from typing import Any

from bertbatch import Job

CARRY = {"input.carry": ["id"]}


def make_job(model: str, input: Any, output: Any, runner: str = "inline", **keys: Any) -> Job:
    data: dict[str, dict[str, Any]] = {
        "input": {"path": input if isinstance(input, list) else str(input)},
        "output": {"path": str(output)},
        "model": {"name": model, "dtype": "float32", "tokens_per_batch": 512},
        "runtime": {"runner": runner},
    }
    for key, value in keys.items():
        section, _, name = key.partition(".")
        data.setdefault(section, {})[name] = value
    return Job.build(data)
