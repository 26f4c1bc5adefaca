"""Tiny encoders, alone or in a folder of sentence-transformers."""

from pathlib import Path

import torch
import transformers

from tests.helpers.classifiers import save

LENGTH = 60


def plain(folder: Path, kind: str = "bert") -> Path:
    """An encoder's own folder, without a head."""
    save(folder, kind)
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    classifier.base_model.save_pretrained(folder)
    return folder


def embedder(folder: Path, kind: str = "bert", pooling: str = "mean", layers: str = "") -> Path:
    """A folder that sentence-transformers has written; `layers`: d(ense), n(ormalize)."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers import models as st

    first = st.Transformer(str(plain(folder / "encoder", kind)), max_seq_length=LENGTH)
    modules: list[torch.nn.Module] = [first, st.Pooling(32, pooling_mode=pooling)]
    torch.manual_seed(4)
    size = 32
    for letter in layers:
        if letter == "d":
            modules.append(st.Dense(size, 24, activation_function=torch.nn.Tanh()))
            size = 24
        else:
            modules.append(st.Normalize())
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"
