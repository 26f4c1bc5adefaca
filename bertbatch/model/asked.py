"""What a job asks of a model's outputs.

`model.task: auto` is read off the model's config.json.
"""

from dataclasses import dataclass
from typing import Any

from bertbatch.errors import JobError
from bertbatch.job.model import Model

# What each task calls its problem type, as in a model's config.json; a cross-encoder has none.
PROBLEM_TYPES = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
    "cross_encoder": "regression",
}
# Activations of each task, the first by default. A cross-encoder's config.json may name another.
ACTIVATIONS = {
    "single_label": ("softmax", "sigmoid", "none"),
    "multi_label": ("sigmoid",),
    "regression": ("none",),
    "cross_encoder": ("sigmoid", "none"),
}
NAMED = {"Sigmoid": "sigmoid", "Identity": "none"}  # classes of torch.nn


@dataclass(frozen=True)
class Asked:
    """`activation`: what makes scores of logits."""

    task: str
    activation: str
    top_k: int | None
    min_score: float | None
    logits: bool

    @property
    def problem_type(self) -> str:
        return PROBLEM_TYPES[self.task]

    @property
    def answers(self) -> dict[str, Any]:
        """What of it changes answers and is not the rule for the model's problem type."""
        given = {
            "task": self.task if self.task == "cross_encoder" else None,
            "activation": self.activation,
            "top_k": self.top_k,
            "min_score": self.min_score,
            "logits": self.logits or None,
        }
        if self.activation == ACTIVATIONS[self.task][0] and self.task != "cross_encoder":
            given["activation"] = None
        return {key: value for key, value in given.items() if value is not None}


def asked_of(settings: Model, config: dict[str, Any], count: int, where: str) -> Asked:
    """What a job asks of a model with so many outputs. Raises JobError if that does not fit."""
    task = _task(settings, config, count, where)
    if task == "cross_encoder" and count != 1:
        raise JobError(
            f"{where}: a cross-encoder has one output, this model has {count}; use model.task: "
            "single_label"
        )
    if settings.top_k is not None and settings.top_k > count:
        raise JobError(f"model.top_k {settings.top_k}: {settings.name} has {count} classes")
    with_classes = task in ("single_label", "multi_label")
    if settings.top_k is not None and not with_classes:
        raise JobError(f"model.top_k: {task} has no classes; leave it out")
    if settings.min_score is not None and task != "single_label":
        instead = "use model.threshold" if task == "multi_label" else "leave it out"
        raise JobError(f"model.min_score: {task} has no label of a row; {instead}")
    activation = _activation(settings, config, task, where)
    return Asked(task, activation, settings.top_k, settings.min_score, settings.logits)


def _task(settings: Model, config: dict[str, Any], count: int, where: str) -> str:
    tasks = {PROBLEM_TYPES[task]: task for task in reversed(PROBLEM_TYPES)}
    given = settings.problem_type
    if settings.task != "auto":
        if given is not None and PROBLEM_TYPES[settings.task] != given:
            raise JobError(
                f"model.task {settings.task} and model.problem_type {given} are different tasks; "
                "leave model.problem_type out"
            )
        return settings.task
    default = "regression" if count == 1 else "single_label_classification"
    problem_type = str(given or config.get("problem_type") or default)
    if problem_type not in tasks:
        raise JobError(
            f"{where}: problem_type {problem_type!r} in its config.json is none of "
            f"{', '.join(tasks)}; set model.task"
        )
    if given is None and count == 1 and problem_type == "regression" and _named(config):
        return "cross_encoder"
    return tasks[problem_type]


def _activation(settings: Model, config: dict[str, Any], task: str, where: str) -> str:
    possible = ACTIVATIONS[task]
    if settings.activation != "auto":
        if settings.activation in possible:
            return settings.activation
        hint = "; use model.task: cross_encoder" if task == "regression" else ""
        raise JobError(
            f"model.activation {settings.activation}: the scores of {task} are by "
            f"{' or '.join(possible)}{hint}"
        )
    name = _named(config) if task == "cross_encoder" else None
    if name is None:
        return possible[0]
    found = NAMED.get(name.rpartition(".")[2])
    if found is None:
        raise JobError(
            f"{where}: its config.json names the activation {name!r}, and "
            f"{', '.join(NAMED)} are known; set model.activation to {' or '.join(possible)}"
        )
    return found


def _named(config: dict[str, Any]) -> str | None:
    """The activation that sentence-transformers wrote into a cross-encoder's config.json."""
    ours = config.get("sentence_transformers")
    name = ours.get("activation_fn") if isinstance(ours, dict) else None
    name = name or config.get("sbert_ce_default_activation_function")
    return name if isinstance(name, str) else None
