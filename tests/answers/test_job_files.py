"""The job file of each task runs as it is, but for where it reads and writes."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bertbatch import Job, run
from bertbatch.registry import TASKS
from tests.helpers.paths import ROOT
from tests.helpers.taggers import save_tagger
from tests.helpers.tiny import make_model, make_texts

COLUMNS = {
    "single_label": ["label", "score", "scores", "logits"],
    "multi_label": ["labels", "scores"],
    "regression": ["values"],
    "cross_encoder": ["score"],
    "embedding": ["embedding"],
    "token_classification": ["entities"],
    "zero_shot": ["labels", "scores"],
}


@pytest.mark.parametrize("task", TASKS)
def test_the_job_file_of_each_task_runs(task, tmp_path):
    changes = [f"output.path={tmp_path}/out", "runtime.runner=inline", "input.limit=20"]
    if task == "cross_encoder":
        texts = {"question": make_texts(30), "passage": make_texts(30, seed=1)}
        pq.write_table(pa.table({"id": range(30), **texts}), tmp_path / "in.parquet")
        model = make_model(tmp_path / "model", num_labels=1, id2label=None, label2id=None)
        changes += [f"input.path={tmp_path}/in.parquet", f"model.name={model}"]
    elif task == "zero_shot":
        names = {
            "id2label": {0: "entailment", 1: "other"},
            "label2id": {"entailment": 0, "other": 1},
        }
        model = make_model(tmp_path / "model", **names)
        changes += [f"input.path={ROOT}/examples/reviews", f"model.name={model}"]
    elif task == "token_classification":
        model = save_tagger(tmp_path / "model", "wordpiece")
        changes += [f"input.path={ROOT}/examples/reviews", f"model.name={model}"]
    else:
        changes.append(f"input.path={ROOT}/examples/reviews")
    job = Job.load(ROOT / "jobs" / f"{task.replace('_', '-')}.yaml", changes)
    assert job.model.task == task
    table = run(job).to_pandas()
    others = ["source", "row", "id", "n_tokens", "truncated", "unk_share"]
    assert list(table.columns) == [*others[:3], *COLUMNS[task], *others[3:]]
    assert len(table) == 20


def test_the_job_file_of_long_texts_runs(tmp_path):
    changes = [f"output.path={tmp_path}/out", "runtime.runner=inline", "input.limit=20"]
    changes.append(f"input.path={ROOT}/examples/reviews")
    table = run(Job.load(ROOT / "jobs" / "long-texts.yaml", changes)).to_pandas()
    assert table["windows"].max() > 1
    assert not table["truncated"].any()


def lists_of_strings():
    """Every key of a job that takes a list of plain strings, but for paths, which have commas."""
    shapes = Job.model_json_schema()["$defs"]
    for section in ("input", "output", "model", "attention"):
        for key, shape in shapes[section.capitalize()]["properties"].items():
            kinds = [shape, *shape.get("anyOf", [])]
            if any(kind.get("items", {}).get("type") == "string" for kind in kinds):
                yield section, key


def test_a_list_of_strings_may_be_given_with_commas():
    keys = set(lists_of_strings()) - {("input", "path")}
    assert {("model", "labels"), ("input", "carry"), ("input", "normalize")} <= keys
    limited = {"statistics": ["entropy", "to_sep"], "normalize": ["nfkc", "html"]}
    for section, key in keys:
        values = limited.get(key, ["bad", "good"])
        for given in (",".join(values), ", ".join(values), f"[{', '.join(values)}]"):
            data = {"input": {"path": "x"}, "output": {"path": "y"}}
            job = Job.build(data, changes=[f"{section}.{key}={given}"])
            assert getattr(getattr(job, section), key) == values, (key, given)
