"""Tiny classifiers of the architectures, with random weights."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

from bertbatch.job.model import Model
from bertbatch.model.spec import ModelSpec, check_model
from tests.helpers.tiny import make_model, make_texts

SMALL: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
    "initializer_range": 0.5, "num_labels": 3,
}  # fmt: skip

PACKED = ["bert", "roberta", "xlm-roberta", "camembert", "electra", "distilbert", "albert"]
PADDED = ["rembert"]
LENGTHS = np.array([50, 33, 17, 17, 16, 5, 3, 1])
JAPANESE = [
    "この映画は本当に素晴らしかった。",
    "部屋が狭くて、朝食も冷たい。",
    "また泊まりたいと思います!",
    "",
]


def save(folder: Path, kind: str, hidden_size: int = 32) -> ModelSpec:
    """A tiny classifier of some architecture; ids up to 90, the padding id is 0 or 1."""
    make_model(folder)  # for its tokenizer
    settings = {**SMALL, "vocab_size": 90, "max_position_embeddings": 70}
    settings["hidden_size"] = hidden_size
    settings["initializer_range"] *= (32 / hidden_size) ** 0.5
    if kind == "distilbert":
        settings = {**settings, "dim": hidden_size, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    elif kind in ("electra", "albert"):
        settings["embedding_size"] = 16
    config = transformers.AutoConfig.for_model(kind, **settings)
    torch.manual_seed(3)
    transformers.AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    return check_model(Model(name=str(folder), max_length=60))


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


def save_japanese(folder: Path) -> str:
    """A BERT whose tokenizer is in Python, with the words of `JAPANESE`."""
    import fugashi
    import unidic_lite

    tagger = fugashi.Tagger(f"-d {unidic_lite.DICDIR}")
    words = sorted({str(word) for text in JAPANESE for word in tagger(text)})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
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
    return str(folder)


def some_ids(lengths: np.ndarray, first: int = 3) -> np.ndarray:
    return np.random.default_rng(1).integers(first, 90, lengths.sum()).astype(np.int32)
