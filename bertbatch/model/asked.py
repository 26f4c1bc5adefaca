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
    "embedding": "embedding",
    "token_classification": "token_classification",
    "zero_shot": "single_label_classification",
}
# What a task reads of a model, and how the names of the models end that give it.
GIVES = {"embedding": "vectors", "token_classification": "tokens"}  # the others: "classes"
ENDS = {"classes": "ForSequenceClassification", "tokens": "ForTokenClassification"}
# Activations of each task, the first by default. A cross-encoder's config.json may name another.
ACTIVATIONS = {
    "single_label": ("softmax", "sigmoid", "none"),
    "multi_label": ("sigmoid",),
    "regression": ("none",),
    "cross_encoder": ("sigmoid", "none"),
    "embedding": ("none",),
    "token_classification": ("softmax",),
    "zero_shot": ("softmax",),
}
CLASSES = ("single_label", "multi_label", "regression", "cross_encoder")
# Keys that some tasks do not use.
ONLY_FOR = {
    **dict.fromkeys(("pooling", "dimensions", "embedding_type"), ("embedding",)),
    "aggregation": ("token_classification",),
    "logits": CLASSES,
    "labels": (*CLASSES, "token_classification", "zero_shot"),
    **dict.fromkeys(("candidate_labels", "hypothesis_template", "multi_label"), ("zero_shot",)),
    "long_text": (*CLASSES, "token_classification", "embedding"),
}
NAMED = {"Sigmoid": "sigmoid", "Identity": "none"}  # classes of torch.nn


@dataclass(frozen=True)
class Asked:
    """`activation`: what makes scores of logits."""

    task: str
    activation: str
    top_k: int | None = None
    min_score: float | None = None
    logits: bool = False
    dimensions: int | None = None
    embedding_type: str = "float32"
    aggregation: str = "simple"
    long_text: str = "truncate"
    stride: int | None = None
    combine: str = "mean"
    candidate_labels: tuple[str, ...] = ()
    hypothesis_template: str = ""
    entailment: int = 0  # its class
    multi_label: bool = False

    @property
    def problem_type(self) -> str:
        return PROBLEM_TYPES[self.task]

    @property
    def gives(self) -> str:
        """What the task reads of the model: "classes", "tokens" or "vectors"."""
        return GIVES.get(self.task, "classes")

    @property
    def plain(self) -> bool:
        """Whether each row is one sequence of tokens, cut at its end."""
        return self.task != "zero_shot" and self.long_text == "truncate"

    @property
    def answers(self) -> dict[str, Any]:
        """What of it changes answers and is not the rule for the model's problem type."""
        zero_shot, windows = self.task == "zero_shot", self.long_text == "windows"
        given = {
            "task": self.task if self.task in ("cross_encoder", "zero_shot") else None,
            "activation": self.activation,
            "top_k": self.top_k,
            "min_score": self.min_score,
            "logits": self.logits or None,
            "dimensions": self.dimensions,
            "embedding_type": self.embedding_type if self.task == "embedding" else None,
            "aggregation": self.aggregation if self.gives == "tokens" else None,
            "long_text": None if self.long_text == "truncate" else self.long_text,
            "stride": self.stride,
            "combine": self.combine if windows else None,
            "candidate_labels": list(self.candidate_labels) if zero_shot else None,
            "hypothesis_template": self.hypothesis_template if zero_shot else None,
            "multi_label": self.multi_label if zero_shot else None,
        }
        if self.activation == ACTIVATIONS[self.task][0] and self.task != "cross_encoder":
            given["activation"] = None
        return {key: value for key, value in given.items() if value is not None}


def gives_of(settings: Model, config: dict[str, Any], modules: bool, where: str) -> str:
    """What the model gives that the job names: "classes", "tokens" or "vectors".

    `modules`: sentence-transformers wrote it. Raises JobError if that is not what the task reads.
    """
    named = config.get("architectures") or []
    names = [str(name) for name in (named if isinstance(named, list) else [named])]
    found = next((g for g, end in ENDS.items() if any(n.endswith(end) for n in names)), None)
    if found is None and (modules or any(name.endswith("Model") for name in names)):
        found = "vectors"
    what = f"its config.json names {', '.join(names) or 'no architecture'}"
    if settings.task == "auto":
        if found is None:
            raise JobError(
                f"{where}: {what}, which has no task here; name a model whose architecture ends in "
                f"{' or '.join(ENDS.values())}, or set model.task: embedding for vectors of its "
                "encoder"
            )
        return found
    wanted = GIVES.get(settings.task, "classes")
    if wanted not in (found, "vectors"):
        raise JobError(
            f"{where}: {what}, and model.task {settings.task} needs one that ends in "
            f"{ENDS[wanted]}; fine-tune it, or name another model"
        )
    return wanted


def asked_of(settings: Model, config: dict[str, Any], count: int, gives: str, where: str) -> Asked:
    """What a job asks of a model with so many outputs. Raises JobError if that does not fit."""
    task = _task(settings, config, count, where) if gives == "classes" else _only(gives)
    entailment = 0
    if task == "cross_encoder" and count != 1:
        raise JobError(
            f"{where}: a cross-encoder has one output, this model has {count}; use model.task: "
            "single_label"
        )
    if task == "zero_shot":
        entailment = _entailment(settings, config, count, where)
        count = len(settings.candidate_labels)
    if settings.top_k is not None and settings.top_k > count:
        raise JobError(f"model.top_k {settings.top_k}: {settings.name} has {count} classes")
    with_classes = task in ("single_label", "multi_label", "zero_shot")
    if settings.top_k is not None and not with_classes:
        raise JobError(f"model.top_k: {task} has no classes; leave it out")
    several = task == "multi_label" or settings.multi_label
    if settings.min_score is not None and (several or task not in ("single_label", "zero_shot")):
        instead = "use model.threshold" if several else "leave it out"
        raise JobError(f"model.min_score: {task} has no label of a row; {instead}")
    _check_keys(settings, task, count)
    _check_windows(settings, task)
    return Asked(
        task=task,
        activation=_activation(settings, config, task, where),
        top_k=settings.top_k,
        min_score=settings.min_score,
        logits=settings.logits,
        dimensions=settings.dimensions,
        embedding_type=settings.embedding_type,
        aggregation=settings.aggregation,
        long_text=settings.long_text,
        stride=settings.stride,
        combine=settings.combine,
        candidate_labels=tuple(settings.candidate_labels),
        hypothesis_template=settings.hypothesis_template,
        multi_label=settings.multi_label,
        entailment=entailment,
    )


def _only(gives: str) -> str:
    """The one task that reads this."""
    return next(task for task, given in GIVES.items() if given == gives)


def _check_keys(settings: Model, task: str, count: int) -> None:
    """Raises JobError for a key that means nothing to a task, or is too much for the model."""
    for key, tasks in ONLY_FOR.items():
        if task not in tasks and getattr(settings, key) != Model.model_fields[key].default:
            raise JobError(
                f"model.{key}: {task} does not use it, only {', '.join(tasks)}; leave it out"
            )
    if settings.dimensions is not None and settings.dimensions > count:
        raise JobError(
            f"model.dimensions {settings.dimensions}: {settings.name} has vectors of {count}"
        )


def _check_windows(settings: Model, task: str) -> None:
    """Raises JobError if keys about windows do not go together."""
    for key in ("stride", "combine"):
        given = getattr(settings, key) != Model.model_fields[key].default
        if given and settings.long_text != "windows":
            raise JobError(f"model.{key}: it is about windows; set model.long_text: windows")
    if task == "token_classification" and settings.combine != "mean":
        raise JobError(
            "model.combine: entities of all windows count; of those that overlap the longest; "
            "leave it out"
        )
    if task == "embedding" and settings.combine == "max":
        raise JobError("model.combine max: vectors have no maximum; use mean, first or longest")


def _entailment(settings: Model, config: dict[str, Any], count: int, where: str) -> int:
    """The class of a text from which a hypothesis follows. Raises JobError if there is none."""
    labels, template = settings.candidate_labels, settings.hypothesis_template
    if not labels:
        raise JobError(
            "model.candidate_labels: zero_shot needs the labels to choose from; name "
            "them, such as by --candidate-labels a,b"
        )
    if len(set(labels)) < len(labels):
        raise JobError("model.candidate_labels names a label twice; leave one out")
    try:
        made = {template.format(label) for label in labels}
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise JobError(
            f"model.hypothesis_template {template!r}: {error!r}; write a label as {{}}"
        ) from error
    if len(made) < len(labels) or template in made:
        raise JobError(f"model.hypothesis_template {template!r} has no {{}} for a label")
    named = settings.labels or [str(x) for _, x in sorted(_classes(config))]
    found = [i for i, name in enumerate(named) if name.lower().startswith("entail")]
    if not found or count < 2:
        raise JobError(
            f"{where}: zero_shot needs a model for natural language inference, and of its classes "
            f"({', '.join(named) or 'unnamed'}) none is entailment; name them by model.labels, or "
            "name another model"
        )
    return found[0]


def _classes(config: dict[str, Any]) -> list[tuple[int, Any]]:
    named = config.get("id2label")
    return [(int(i), name) for i, name in named.items()] if isinstance(named, dict) else []


def _task(settings: Model, config: dict[str, Any], count: int, where: str) -> str:
    tasks = {kind: task for task, kind in reversed(PROBLEM_TYPES.items()) if task not in GIVES}
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
