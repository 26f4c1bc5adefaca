"""What transformers itself answers, one text at a time."""

import numpy as np
import torch
import transformers

from bertbatch.model.spec import ModelSpec


def one_by_one(
    spec: ModelSpec,
    ids: np.ndarray,
    lengths: np.ndarray,
    dtype: str = "float32",
    device: str = "cpu",
) -> np.ndarray:
    """What transformers answers, without any padding."""
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        spec.name, dtype=getattr(torch, dtype)
    )
    model.to(device).eval()
    answers = []
    with torch.inference_mode():
        for row in np.split(ids.astype(np.int64), np.cumsum(lengths)[:-1]):
            one = torch.from_numpy(row)[None].to(device)
            logits = model(input_ids=one, attention_mask=torch.ones_like(one)).logits
            answers.append(logits.float().cpu().numpy())
    return np.concatenate(answers)


def one_at_a_time(folder: str, texts: list[str]) -> np.ndarray:
    """The probabilities of the plain way: transformers, one text after the other, in fp32."""
    return np.asarray(torch.from_numpy(raw_logits(folder, texts)).softmax(-1))


def raw_logits(folder: str, texts: list[str], pair_texts: list[str] | None = None) -> np.ndarray:
    """The logits of the plain way."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32
    ).eval()
    rows = []
    with torch.inference_mode():
        for text, pair in zip(texts, pair_texts or [None] * len(texts), strict=True):
            encoded = tokenizer(text, pair, truncation=True, max_length=64, return_tensors="pt")
            rows.append(model(**encoded).logits.numpy()[0])
    return np.stack(rows)


def allowed(
    spec: ModelSpec, ids: np.ndarray, lengths: np.ndarray, dtype: str, device: str = "cpu"
) -> float:
    """How far answers in a precision may be from float32's: thrice as far as the model's own.

    What rounding does differs much by architecture: ALBERT's shared layers add it up.
    """
    wanted = one_by_one(spec, ids, lengths)
    if dtype == "float32":
        return 1e-4 * max(float(np.abs(wanted).max()), 1.0)
    own = one_by_one(spec, ids, lengths, dtype, device)
    return 3 * float(np.abs(own - wanted).max())
