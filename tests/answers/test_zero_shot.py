"""Zero-shot classification, against transformers' own pipeline."""

import numpy as np
import pytest
import transformers

from bertbatch import JobError
from bertbatch.job.model import Model
from bertbatch.model.spec import check_model
from tests.helpers.classifiers import JAPANESE, save_japanese
from tests.helpers.jobs import make_job
from tests.helpers.outputs import predictions, run_and_rescore
from tests.helpers.sources import write_parquet
from tests.helpers.tiny import make_model, make_texts

TEXTS = make_texts(30)
LABELS = ["a", "politics and 9 things", "zz"]
NLI = ["contradiction", "neutral", "ENTAILMENT"]


def entailing(folder, names=NLI, **config):
    ids = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
    return make_model(folder, **ids, **config)


def scored(model, tmp_path, texts=TEXTS, **keys):
    """The predictions, which verify finds to be those of the model."""
    write_parquet(tmp_path / "in.parquet", texts)
    keys = {"task": "zero_shot", "candidate_labels": LABELS, **keys}
    keys = {key if "." in key else f"model.{key}": value for key, value in keys.items()}
    job = make_job(str(model), tmp_path / "in.parquet", tmp_path / "out", **keys)
    run_and_rescore(job, len(texts))
    return predictions(tmp_path / "out").to_pylist()


def theirs(model, texts=TEXTS, labels=LABELS, **keys):
    """Scores [texts, labels] in the labels' order."""
    pipeline = transformers.pipeline("zero-shot-classification", model)
    made = [pipeline(text, labels, **keys) for text in texts]
    return np.array([[dict(zip(m["labels"], m["scores"]))[n] for n in labels] for m in made])  # noqa: B905


@pytest.mark.parametrize(
    ("multi", "labels", "template", "names", "engine", "runner"),
    # Every value, and every pair of values.
    [
        (False, LABELS, "This example is {}.", NLI, "torch", "inline"),
        (True, LABELS, "about {}", NLI[::-1], "openvino", "ray"),
        (False, ["one"], "about {}", NLI, "openvino", "inline"),
        (True, ["one"], "This example is {}.", NLI[::-1], "torch", "inline"),
        (False, LABELS, "about {}", NLI[::-1], "torch", "ray"),
        (True, LABELS, "This example is {}.", ["entailment", "not_entailment"], "torch", "inline"),
        (False, ["one"], "about {}", ["entailment", "not_entailment"], "torch", "ray"),
        (False, LABELS, "{}", ["entailment", "not_entailment"], "openvino", "inline"),
    ],
)
def test_scores_are_those_of_transformers(tmp_path, multi, labels, template, names, engine, runner):
    model = entailing(tmp_path / "model", names)
    keys = {"multi_label": multi, "candidate_labels": labels, "hypothesis_template": template}
    keys |= {"engine": engine, "runtime.runner": runner}
    rows = scored(model, tmp_path, **keys)
    wanted = theirs(model, labels=labels, multi_label=multi, hypothesis_template=template)
    found = np.array([row["scores"] for row in rows])
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    for row, scores in zip(rows, wanted, strict=True):
        if multi:
            assert row["labels"] == [n for n, s in zip(labels, scores, strict=True) if s > 0.5]
        else:
            assert row["label"] == labels[int(scores.argmax())]
    assert any(row["truncated"] for row in rows)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_text_is_cut_on_the_tokenizers_side(tmp_path, side):
    model = entailing(tmp_path / "model")
    made = transformers.AutoTokenizer.from_pretrained(model, truncation_side=side)
    made.save_pretrained(model)
    texts = [*TEXTS, " ".join(make_texts(9000, seed=4))]
    rows = scored(model, tmp_path, texts)
    np.testing.assert_allclose([r["scores"] for r in rows], theirs(model, texts), atol=1e-4)


def test_a_tokenizer_in_python(tmp_path):
    model = save_japanese(tmp_path / "model")
    labels = ["映画", "部屋"]
    keys = {"candidate_labels": labels, "hypothesis_template": "これは{}です。", "labels": NLI}
    rows = scored(model, tmp_path, JAPANESE, **keys)
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(model).eval()
    for row, text in zip(rows, JAPANESE, strict=True):
        logits = [
            classifier(**tokenizer(text, f"これは{label}です。", return_tensors="pt")).logits[0, 2]
            for label in labels
        ]
        scores = np.exp([x.item() for x in logits])
        np.testing.assert_allclose(row["scores"], scores / scores.sum(), atol=1e-4)


@pytest.mark.parametrize(("key", "value"), [("top_k", 2), ("min_score", 0.5)])
def test_scores_are_cut_as_those_of_other_tasks(tmp_path, key, value):
    model = entailing(tmp_path / "model")
    rows = scored(model, tmp_path, **{key: value})
    wanted = theirs(model)
    for row, scores in zip(rows, wanted, strict=True):
        if key == "top_k":
            order = np.argsort(-scores)[:2]
            assert [s["label"] for s in row["scores"]] == [LABELS[i] for i in order]
        else:
            assert (row["label"] is None) == (scores.max() < 0.5)


def test_other_candidates_are_another_output(tmp_path):
    model = entailing(tmp_path / "model")
    scored(model, tmp_path)
    with pytest.raises(JobError, match=r"model.candidate_labels: \['a'.* in the output"):
        scored(model, tmp_path, candidate_labels=["b"])


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"candidate_labels": []}, "needs the labels to choose from"),
        ({"candidate_labels": ["a", "a"]}, "names a label twice"),
        ({"hypothesis_template": "no label"}, "has no {} for a label"),
        ({"hypothesis_template": "no label", "candidate_labels": ["a"]}, "has no {} for a label"),
        ({"hypothesis_template": "{x}"}, "write a label as {}"),
        ({"hypothesis_template": "{} {"}, "write a label as {}"),
        ({"hypothesis_template": "{.label}"}, "write a label as {}"),
        ({"hypothesis_template": "{[label]}"}, "write a label as {}"),
        ({"labels": ["x", "y", "z"]}, r"\(x, y, z\) none is entailment; name them by model.labels"),
        ({"long_text": "windows"}, "long_text: zero_shot does not use it"),
        ({"multi_label": True, "min_score": 0.5}, "use model.threshold"),
        ({"top_k": 4}, "top_k 4: .* has 3 classes"),
        ({"task": "single_label"}, "candidate_labels: single_label does not use it, only zero_sh"),
    ],
)
def test_what_does_not_fit_is_an_error_that_says_what_does(tmp_path, keys, said):
    model = entailing(tmp_path / "model")
    asked = {"task": "zero_shot", "candidate_labels": LABELS, **keys}
    with pytest.raises(JobError, match=said):
        check_model(Model(name=model, **asked))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"input.text_pair": "id"}, "zero_shot reads single texts"),
        ({"attention.statistics": ["entropy"]}, "a text has no statistics of its own"),
        ({"candidate_labels": ["x" * 80]}, "which leaves none of 64 for a text"),
    ],
)
def test_jobs_that_cannot_be_are_errors(tmp_path, keys, said):
    model = entailing(tmp_path / "model")
    with pytest.raises(JobError, match=said):
        scored(model, tmp_path, **keys)
