"""Units without rows, with bad rows, and with rows whose answers are no numbers."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import transformers
from safetensors.torch import load_file, save_file

from bertbatch import run
from bertbatch.checks.verify import verify
from bertbatch.output.folder import open_output
from tests.helpers.embedders import plain
from tests.helpers.jobs import make_job
from tests.helpers.outputs import predictions, quarantine
from tests.helpers.taggers import save_tagger
from tests.helpers.tiny import make_model

NLI = {"entailment": 0, "other": 1}
CASES = {
    "windows": {"model.long_text": "windows", "model.max_length": 16},
    "head_tail": {"model.long_text": "head_tail", "model.max_length": 16},
    "zero_shot": {"model.task": "zero_shot", "model.candidate_labels": ["a", "b"]},
    "entities": {"model.long_text": "windows", "model.max_length": 16},
    "vectors": {"model.long_text": "windows", "model.max_length": 16},
}


def make(case, folder):
    if case == "entities":
        return save_tagger(folder, "wordpiece")
    if case == "vectors":
        return str(plain(folder))
    return make_model(folder, label2id=NLI, id2label={i: name for name, i in NLI.items()})


@pytest.mark.parametrize("runner", ["inline", "ray"])
@pytest.mark.parametrize("case", CASES)
def test_units_with_nothing_to_score(case, runner, tmp_path):
    """All rows of the first unit are null, and some of the others."""
    model = make(case, tmp_path / "model")
    texts = [None] * 10 + ["a b c " * 20, None, "d", "", "e f"]
    table = pa.table({"id": range(15), "text": pa.array(texts, pa.string())})
    pq.write_table(table, tmp_path / "in.parquet", row_group_size=5)
    keys = {**CASES[case], "runtime.unit_rows": 5}
    job = make_job(model, tmp_path / "in.parquet", tmp_path / "out", runner, **keys)
    run(job)
    assert predictions(tmp_path / "out")["row"].to_pylist() == [10, 12, 13, 14]
    assert sorted(row["row"] for row in quarantine(tmp_path / "out")) == [*range(10), 11]
    assert not verify(open_output(str(tmp_path / "out"))).problems


@pytest.mark.parametrize("case", CASES)
def test_one_window_without_a_number_costs_its_row(case, tmp_path):
    """The weight of one word is infinite: it is in the last window of one text."""
    model = make(case, tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    (name,) = (name for name in weights if name.endswith("word_embeddings.weight"))
    word = transformers.AutoTokenizer.from_pretrained(model)("9")["input_ids"][1]
    weights[name][word] = float("inf")
    save_file(weights, tmp_path / "model" / "model.safetensors", {"format": "pt"})
    texts = ["a b " * 20, "a b " * 20 + "9", "c"]
    pq.write_table(pa.table({"id": range(3), "text": texts}), tmp_path / "in.parquet")
    run(make_job(model, tmp_path / "in.parquet", tmp_path / "out", **CASES[case]))
    table = predictions(tmp_path / "out")
    assert table["row"].to_pylist() == [0, 2]
    (lost,) = quarantine(tmp_path / "out")
    assert (lost["row"], lost["reason"]) == (1, "the model's output is not a finite number")
    if case == "windows":
        assert np.isfinite(np.stack(table["scores"].to_numpy())).all()
        assert table["windows"].to_pylist()[0] > 1
