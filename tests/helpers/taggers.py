"""Tiny token classifiers with tokenizers of each kind, with texts in many scripts."""

import random
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

TAGS = ["O", "B-PER", "I-PER", "B-ORG", "I-ORG", "LOC", "S-MISC"]
TOKENIZERS = ["wordpiece", "bytes", "unigram"]
SCRIPTS = {
    "Latin": [
        "Anna Müller moved from Zürich to New York, didn't she?",
        "  Two blanks, then café and naïve coöperation.\n\nA new line\tand a tab",
        "O'Neill & Sons Ltd. sold 3.5 % of ACME-Corp",
    ],
    "Japanese": [
        "田中さんは東京の大学で働いています。",
        "ﾊﾝｶｸのｶﾞと全角のガ、㍿と①。",
        "昨日、Sonyの新しいカメラを買いました!",
    ],
    "Chinese": ["李明在北京大学工作,住在海淀区。", "我买了iPhone15。"],
    "Korean": ["김민수는 서울에서 삼성전자에 다닙니다.", "한국어 자모: ᄒ ᅡ ᆫ"],
    "Arabic": ["يعمل أحمد في جامعة القاهرة منذ سنوات.", "مُحَمَّد وَ عَلِيّ"],
    "Thai": ["สมชายทำงานที่มหาวิทยาลัยเชียงใหม่", "น้ำตาลและเกลือ"],
    "Hindi": ["अनिल दिल्ली विश्वविद्यालय में पढ़ाते हैं।", "क्षत्रिय ज़रूरत"],
    "mixed": [
        "Bob 👩‍👩‍👧 met 田中 in Москва 🇯🇵, e\u0301 vs \u00e9, ﬁne ½ Ⅷ",
        "İstanbul ẞ ŒUVRE \u200bzero\u00a0width \u2028 separators",
        "한국 and भारत and ไทย and 日本 and العربية",
        "",
        " ",
        "[CLS] is spelled out, and <s> too </s> [MASK]",
    ],
}
TEXTS = [text for texts in SCRIPTS.values() for text in texts]


def more_texts(count: int, seed: int = 0) -> list[str]:
    """Texts put together of pieces of those, some longer than the models' 64 tokens."""
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        pieces = []
        for _ in range(rng.randint(1, 6)):
            text = rng.choice(TEXTS)
            start = rng.randint(0, max(len(text) - 1, 0))
            pieces.append(text[start : start + rng.randint(1, 40)])
        made.append(rng.choice([" ", "", "  ", "\n"]).join(pieces))
    return made


def save_tagger(folder: Path, tokenizer: str, kind: str = "bert", spread: float = 0.5) -> str:
    """A token classifier with random weights; `kind`: its architecture.

    The larger their `spread`, the more each token's classes differ.
    """
    made = _TRAINED[tokenizer]()
    ids = {name: made.token_to_id(token) for name, token in _SPECIAL.items()}
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=64, **_SPECIAL
    ).save_pretrained(folder)
    settings: dict[str, Any] = {
        "vocab_size": made.get_vocab_size(), "hidden_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 4, "intermediate_size": 64, "max_position_embeddings": 72,
        "initializer_range": spread, "id2label": dict(enumerate(TAGS)),
        "label2id": {tag: i for i, tag in enumerate(TAGS)}, "pad_token_id": ids["pad_token"],
        "embedding_size": 32, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64,
    }  # fmt: skip
    config = transformers.AutoConfig.for_model(kind, **settings)
    torch.manual_seed(5)
    model = transformers.AutoModelForTokenClassification.from_config(config)
    model.save_pretrained(folder)
    return str(folder)


_SPECIAL = {
    "cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]",
    "mask_token": "[MASK]",
}  # fmt: skip


def _wordpiece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=True)
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    return _train(made, trainers.WordPieceTrainer)


def _bytes() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    return _train(made, trainers.BpeTrainer, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())


def _unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.NFKC()
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return _train(made, trainers.UnigramTrainer, unk_token="[UNK]")


def _train(made: Tokenizer, trainer: Any, **options: Any) -> Tokenizer:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    # A part of the texts: other characters are then unknown.
    known = [text for texts in SCRIPTS.values() for text in texts[:2]]
    asked = trainer(vocab_size=500, special_tokens=special, show_progress=False, **options)
    made.train_from_iterator(known, asked)
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, made.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )  # fmt: skip
    return made


_TRAINED = {"wordpiece": _wordpiece, "bytes": _bytes, "unigram": _unigram}
