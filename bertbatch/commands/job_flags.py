"""Options that set keys of a job, for commands that take a job from the command line.

One table says which option sets which key. What a key means, and its default, is said in the job.
"""

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from bertbatch.commands.options import of_job
from bertbatch.job.schema import Job

# Of each option: the key, its type, what holds without it where the key has no default.
FLAGS: dict[str, tuple[str, type, str]] = {
    "text": ("input.text", str, ""),
    "text_pair": ("input.text_pair", str, "none"),
    "carry": ("input.carry", str, "none"),
    "task": ("model.task", str, ""),
    "long_text": ("model.long_text", str, ""),
    "candidate_labels": ("model.candidate_labels", str, "none"),
    "max_length": ("model.max_length", int, "the model's"),
    "unit_rows": ("runtime.unit_rows", int, "auto"),
    "runner": ("runtime.runner", str, ""),
    "format": ("input.format", str, ""),
    "where": ("input.where", str, "all rows"),
    "limit": ("input.limit", int, "all rows"),
}
_MODELS = Annotated[list[str] | None, of_job("model.name", more=" (repeatable)")]
_ATTENTION = Annotated[
    bool, typer.Option("--attention", help="also compute statistics of every attention head")
]


def takes_job_flags(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which takes `**flags`, as one with an option for each of them."""
    kinds: dict[str, Any] = {
        name: Annotated[kind | None, of_job(key, default)]
        for name, (key, kind, default) in FLAGS.items()
    }
    kinds |= {"model": _MODELS, "attention": _ATTENTION}
    flags = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=False if name == "attention" else None,
            annotation=kind,
        )
        for name, kind in kinds.items()
    ]
    own = inspect.signature(function)
    kept = [p for p in own.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    function.__signature__ = own.replace(parameters=[*kept, *flags])  # type: ignore[attr-defined]
    annotations = {k: v for k, v in function.__annotations__.items() if k != "flags"}
    function.__annotations__ = annotations | kinds
    return function


def job_of(input: str, output: str, flags: dict[str, Any], changes: list[str] | None) -> Job:
    """The job that scores an input into an output, with options and `--set`. Raises JobError."""
    data: dict[str, Any] = {"input": {"path": input}, "output": {"path": output}, "model": {}}
    for name, (key, _, _) in FLAGS.items():
        section, _, last = key.partition(".")
        if flags[name] is not None:
            data.setdefault(section, {})[last] = flags[name]
    models = flags["model"] or []
    if len(models) > 1:
        data["models"] = [{"name": one} for one in models]
    elif models:
        data["model"]["name"] = models[0]
    if flags["attention"]:
        data["attention"] = {}
    return Job.build(data, "command line", changes)
