"""Every sequence classifier of transformers, tiny and with random weights: what comes of it.

`python -m tests.helpers.architectures` prints the table in docs/models.md.
"""

import inspect
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as NAMES,
)
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES as TAGGERS,
)

from bertbatch.engines.batching import Batching
from bertbatch.engines.engine import EngineOptions, load_engine
from bertbatch.engines.probe_texts import make_probe
from bertbatch.engines.scoring import score
from bertbatch.errors import JobError
from bertbatch.job.model import Model
from bertbatch.model.spec import UNREADABLE, check_model
from bertbatch.model.tokenizer import Tokenizer
from tests.helpers.attention_reference import engine_with_statistics
from tests.helpers.tiny import make_model, make_texts, settled

KINDS = sorted(NAMES)
CLASSIFIER = "AutoModelForSequenceClassification"
MAX_LENGTH = 60
# Of these no tiny configuration was found; at load they are judged as all others are.
UNTRIED = ("cohere_compass_text", "zamba", "zamba2")
COLUMNS = ("batches", "statistics", "OpenVINO", "entities", "embeddings")
HEAD = f"| {' | '.join(COLUMNS)} | `model_type` |"
LIMIT = 1e-4  # of the largest logit, between a row in a job and the same text alone

# Whatever of these a configuration has is set so.
SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "emb_dim", "embed_dim"), 32),
    **dict.fromkeys(("embedding_size", "word_embed_proj_dim", "input_embedding_size"), 32),
    **dict.fromkeys(("output_embedding_size", "true_hidden_size", "intra_bottleneck_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("intermediate_size", "d_inner", "d_ff", "hidden_dim", "ffn_dim"), 64),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "n_inner", "dff"), 64),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"), 72),
    **dict.fromkeys(("max_sequence_length", "tpu_short_seq_length"), 72),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 32),
    **dict.fromkeys(("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "d_kv"), 8),
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "sliding_window", "entity_emb_size"), 16),
    **{"vocab_size": 100, "num_labels": 3, "pad_token_id": 0, "bos_token_id": 2},
    **{"eos_token_id": 3, "sep_token_id": 3, "cls_token_id": 2, "decoder_start_token_id": 2},
    **{"num_key_value_heads": 2, "head_dim": 8, "num_experts_per_tok": 2, "block_size": 4},
    **{"num_random_blocks": 1, "attention_window": 8, "local_attention": 8, "window_size": 8},
    **{"entity_vocab_size": 10, "num_landmarks": 4, "num_buckets": 4, "mamba_d_state": 8},
    **{"axial_pos_shape": (8, 9), "axial_pos_embds_dim": (16, 16), "first_k_dense_replace": 1},
    **{"rotary_dim": 8, "d_latents": 32, "num_latents": 8, "num_blocks": 1},
    **{"num_self_attends_per_block": 2, "num_cross_attention_heads": 4},
    **{"num_self_attention_heads": 4, "enable_pronunciation": False, "enable_shape": False},
}
# Settings that only make sense together with others; None leaves a setting at its default.
OWN: dict[str, dict[str, Any]] = {
    "canine": {"downsampling_rate": 2, "local_transformer_stride": 8},
    "esmc": {"num_key_value_heads": 4},
    "falcon": {"head_dim": None},
    "funnel": {"num_hidden_layers": None, "num_blocks": None, "block_sizes": [1, 1], "d_head": 8},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "use_mamba_kernels": False},
    "lilt": {"channel_shrink_ratio": 1},
    "mobilebert": {"embedding_size": 16},
    "nystromformer": {"segment_means_seq_len": 64, "num_landmarks": 64},
    "qwen3_5_text": {"layer_types": ["linear_attention", "full_attention"]},
    "qwen3_next": {"layer_types": ["linear_attention", "full_attention"]},
    "reformer": {"hash_seed": None, "attn_layers": ["local", "lsh"], "lsh_attn_chunk_length": 8},
    "t5": {"decoder_start_token_id": 0},
    "xlnet": {"max_position_embeddings": None},
    "xmod": {"default_language": "en_XX"},
}
_ENCODER = {k: v for k, v in SMALL.items() if k not in ("num_labels", "layer_types")}
OWN["t5gemma"] = {"encoder": _ENCODER, "decoder": _ENCODER}
for _kind in ("axk1", "deepseek_v3"):
    OWN[_kind] = {"n_group": 1, "topk_group": 1}
for _kind in ("axk1", "axk2", "deepseek_v2", "deepseek_v3", "minicpm3", "mistral4"):
    OWN.setdefault(_kind, {}).update(head_dim=None, num_key_value_heads=4)


def tiny_config(kind: str) -> Any:
    """A configuration of a few thousand weights."""
    usual = transformers.AutoConfig.for_model(kind)
    own = OWN.get(kind, {})
    keys = {k: v for k, v in {**SMALL, **own}.items() if v is not None}
    return type(usual)(**{k: v for k, v in keys.items() if k in own or hasattr(usual, k)})


def save(kind: str, folder: Path, auto: str = CLASSIFIER) -> None:
    """A model of a kind beside a tokenizer; weights large enough that each text differs."""
    make_model(folder)
    torch.manual_seed(3)
    config = tiny_config(kind)
    config.architectures = config.architectures or []  # which AutoModel may look into
    model = getattr(transformers, auto).from_config(config)
    for weight in model.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)


def one_at_a_time(
    folder: str, texts: list[str], max_length: int = MAX_LENGTH, attention: str | None = None
) -> np.ndarray:
    """The logits of transformers' own tokenizer and model for each text alone."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=torch.float32, attn_implementation=attention
    ).eval()
    known = inspect.signature(type(model).forward).parameters
    answers = []
    for text in texts:
        made = tokenizer(text, truncation=True, max_length=max_length, return_tensors="pt")
        with torch.inference_mode():
            answers.append(model(**{k: v for k, v in made.items() if k in known}).logits[0].numpy())
    return np.array(answers)


def outcome(kind: str, folder: Path) -> tuple[str, str]:
    """How rows of a kind are batched and why not better, or "refused" and why.

    Raises AssertionError if an answer is another than that of the text alone.
    """
    if kind in UNTRIED:
        return "not tried", ""
    if kind in UNREADABLE:
        return "refused", UNREADABLE[kind]
    save(kind, folder)
    try:
        spec = check_model(Model(name=str(folder), max_length=MAX_LENGTH, dtype="float32"))
        settings = Model(dtype="float32", tokens_per_batch=256)
        engine = load_engine(spec, EngineOptions(settings, "cpu", 1))
        tokenizer = Tokenizer(spec)
        engine.settle(make_probe(tokenizer, MAX_LENGTH))
    except JobError as error:
        return "refused", str(error).replace(str(folder), "MODEL").removeprefix("model.name MODEL")
    texts = [f"{text} go" for text in make_texts(24, seed=5)]
    wanted = one_at_a_time(str(folder), texts)
    got = score(engine, tokenizer.encode(texts), 0, len(texts)).answers.values
    off = float(np.abs(got - wanted).max() / np.abs(wanted).max())
    assert off < LIMIT, f"{kind}: a row's logits are {off:.2g} off those of its text alone"
    return engine.batching.value, engine.reason


def features(kind: str, folder: Path) -> tuple[str, ...]:
    """What COLUMNS say of a kind: how it is batched, or "no"."""
    batching, why = outcome(kind, folder / "classes")
    print(f"{kind}: {batching} {why[:200]}", file=sys.stderr, flush=True)
    if batching in ("refused", "not tried"):
        return (batching, *["–"] * (len(COLUMNS) - 1))
    spec = check_model(Model(name=str(folder / "classes"), max_length=MAX_LENGTH))
    tried = {
        "statistics": lambda: "yes" if engine_with_statistics(spec) else "no",
        "OpenVINO": lambda: settled(spec, Model(dtype="float32"), "openvino").batching.value,
        "entities": lambda: _other(kind, folder / "tokens", "token_classification"),
        "embeddings": lambda: _other(kind, folder / "vectors", "embedding"),
    }
    found = [batching]
    for what in COLUMNS[1:]:
        try:
            found.append(tried[what]())
        except JobError as error:
            print(f"  {what}: {str(error)[-160:]}", file=sys.stderr, flush=True)
            found.append("no")
    return tuple(found)


def _other(kind: str, folder: Path, task: str) -> str:
    """How a kind is batched for another task than classification."""
    if task == "token_classification" and kind not in TAGGERS:
        raise JobError("transformers has no such model")
    save(kind, folder, "AutoModel" if task == "embedding" else "AutoModelForTokenClassification")
    spec = check_model(Model(name=str(folder), max_length=MAX_LENGTH, task=task))
    return str(settled(spec, Model(dtype="float32")).batching.value)


def table() -> str:
    """What comes of each kind, as Markdown."""
    kinds: dict[tuple[str, ...], list[str]] = {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as folder:
            kinds.setdefault(features(kind, Path(folder)), []).append(kind)
    order = (*Batching, "refused", "not tried")
    lines = [
        f"| {' | '.join(row)} | {', '.join(kinds[row])} |"
        for row in sorted(kinds, key=lambda row: (order.index(row[0]), -len(kinds[row])))
    ]
    return "\n".join([HEAD, "|---" * (len(COLUMNS) + 1) + "|", *lines])


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    print(table())
