"""The job file's section `model`."""

from typing import Literal

from pydantic import Field

from bertbatch.job.types import CommaList, CountOrAuto, Engine, Section, StorageOptions, Task


class Model(Section):
    name: str = Field(
        "sentiment-mini",
        description="a packaged model, a folder, its URL, or a Hugging Face Hub id",
    )
    revision: str | None = Field(
        None,
        description="the Hub revision (branch, tag or commit), or the version of a model at a URL",
    )
    storage_options: StorageOptions = Field({})  # for a model at a URL
    labels: CommaList | None = Field(
        None, description="names for the model's classes, in the order of its logits"
    )
    task: Task = Field(
        "auto", description="what the model's outputs mean; auto: its config.json says so"
    )
    problem_type: (
        Literal["single_label_classification", "multi_label_classification", "regression"] | None
    ) = Field(None, description="`task`, by the name that config.json has for it")
    activation: Literal["auto", "sigmoid", "softmax", "none"] = Field(
        "auto",
        description="what makes scores of logits; auto: softmax for one label, sigmoid for "
        "several, and for a cross-encoder what its config.json names, else sigmoid",
    )
    top_k: int | None = Field(
        None, ge=1, description="`scores` has only so many classes, the likeliest first"
    )
    min_score: float | None = Field(
        None, description="the label is null where its score is below this"
    )
    candidate_labels: CommaList = Field(
        [], description="zero-shot: the labels to choose from, in any words"
    )
    hypothesis_template: str = Field(
        "This example is {}.", description="zero-shot: what is said of a text, with a label for {}"
    )
    multi_label: bool = Field(
        False, description="zero-shot: each label for itself; a text may have several, or none"
    )
    long_text: Literal["truncate", "windows", "head_tail"] = Field(
        "truncate",
        description="what is scored of texts longer than `max_length`: their beginning; all, by "
        "overlapping windows; or a quarter from the beginning, the rest from the end",
    )
    stride: int | None = Field(
        None,
        ge=0,
        description="windows: the tokens that neighbours share; default: a quarter of a window",
    )
    combine: Literal["mean", "max", "first", "longest"] = Field(
        "mean", description="windows: what makes one answer of theirs"
    )
    aggregation: Literal["simple", "first", "average", "max"] = Field(
        "simple",
        description="token classification: which of a word's tokens decides its entity; simple: "
        "each token for itself",
    )
    pooling: Literal["auto", "mean", "cls", "last"] = Field(
        "auto",
        description="embeddings: what makes a vector of a text's tokens; auto: what the model's "
        "folder says, else their mean",
    )
    dimensions: int | None = Field(
        None, ge=1, description="embeddings: only the first so many numbers of each vector"
    )
    embedding_type: Literal["float32", "float16"] = Field(
        "float32", description="embeddings: the precision in which vectors are written"
    )
    logits: bool = Field(False, description="whether the model's own outputs are written, too")
    max_length: int | None = Field(
        None,
        ge=3,
        description="truncate texts to this many tokens; default: the most that the model takes",
    )
    threshold: float = Field(
        0.5,
        gt=0,
        lt=1,
        description="multi-label models: the probability above which a class is a label",
    )
    engine: Engine = Field(
        "auto",
        description="what runs the forward pass; auto: torch, or the fastest on large inputs",
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16", "int8", "fp8"] = Field(
        "auto",
        description="the precision of the forward pass; auto: bfloat16 where it is faster; "
        "int8 (on CPUs) and fp8 (on GPUs) change answers",
    )
    tokens_per_batch: CountOrAuto = Field(
        "auto",
        description="the token budget of a forward pass; auto: measured on large inputs",
    )
    compile: bool = Field(
        False, description="torch.compile on GPUs: minutes at the start for a faster forward pass"
    )
