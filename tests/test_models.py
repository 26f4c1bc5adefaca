"""Other members of the family answer as in transformers: positions, special tokens, Japanese."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from bertbatch import run
from tests.conftest import make_job, write_parquet
from tests.test_run import one_at_a_time
from tests.tiny import make_model, make_texts

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.5, "num_labels": 3,
}  # fmt: skip


def save_roberta(folder: Path) -> str:
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(make_texts(100), trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>",
        sep_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
    ).save_pretrained(folder)  # fmt: skip
    config = transformers.RobertaConfig(
        vocab_size=400, max_position_embeddings=66, type_vocab_size=1, pad_token_id=1, **SMALL
    )
    torch.manual_seed(1)
    transformers.RobertaForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


def save_like_bert(folder: Path, kind: str) -> str:
    """DistilBERT or ELECTRA with the tiny BERT's tokenizer."""
    make_model(folder)
    if kind == "distilbert":
        config = transformers.DistilBertConfig(
            vocab_size=100, max_position_embeddings=64, dim=32, n_layers=2, n_heads=4,
            hidden_dim=64, initializer_range=0.5, num_labels=3,
        )  # fmt: skip
        model: Any = transformers.DistilBertForSequenceClassification(config)
    else:
        config = transformers.ElectraConfig(
            vocab_size=100, max_position_embeddings=64, embedding_size=16, **SMALL
        )
        model = transformers.ElectraForSequenceClassification(config)
    torch.manual_seed(2)
    model.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["roberta", "distilbert", "electra"])
def test_architectures_agree_with_transformers(kind, tmp_path):
    folder = tmp_path / kind
    model = save_roberta(folder) if kind == "roberta" else save_like_bert(folder, kind)
    texts = make_texts(120, seed=3)
    write_parquet(tmp_path / "in.parquet", texts)
    table = run(make_job(model, tmp_path / "in.parquet", tmp_path / "out")).to_pandas()
    expected = one_at_a_time(model, texts)
    # Sums in another order: their last bits depend on the processor.
    np.testing.assert_allclose(np.stack(table["scores"]), expected, atol=5e-5)
    assert table["n_tokens"].max() == 64
    assert table["truncated"].any()


JAPANESE = [
    "この映画は本当に素晴らしかった。",
    "部屋が狭くて、朝食も冷たい。",
    "また泊まりたいと思います!",
    "",
]


def test_japanese_tokenizer_in_python(tmp_path):
    import fugashi
    import unidic_lite

    tagger = fugashi.Tagger(f"-d {unidic_lite.DICDIR}")
    words = sorted({str(word) for text in JAPANESE for word in tagger(text)})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    folder = tmp_path / "model"
    config = transformers.BertConfig(
        vocab_size=len(vocabulary), max_position_embeddings=64, **SMALL
    )
    torch.manual_seed(3)
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    settings = {
        "tokenizer_class": "BertJapaneseTokenizer", "word_tokenizer_type": "mecab",
        "subword_tokenizer_type": "wordpiece", "mecab_kwargs": {"mecab_dic": "unidic_lite"},
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    texts = [*JAPANESE, "素晴らしかった。" * 40]
    write_parquet(tmp_path / "in.parquet", texts)
    table = run(make_job(str(folder), tmp_path / "in.parquet", tmp_path / "out")).to_pandas()
    expected = one_at_a_time(str(folder), texts)
    np.testing.assert_allclose(np.stack(table["scores"]), expected, atol=1e-5)
    assert table["truncated"].tolist() == [False] * 4 + [True]
    assert (table["unk_share"] == 0).all()


def test_a_vocabulary_that_does_not_fit_is_said_once(tmp_path, tiny_model, caplog):
    write_parquet(tmp_path / "in.parquet", JAPANESE[:3] * 40)
    result = run(
        make_job(tiny_model, tmp_path / "in.parquet", tmp_path / "o", **{"runtime.unit_rows": 30})
    )
    assert (result.to_pandas()["unk_share"] > 0.8).all()
    said = [r for r in caplog.records if "vocabulary does not fit" in r.getMessage()]
    assert len(said) == 1
