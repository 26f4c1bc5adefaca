"""Trains the model in a fixed number of steps; an interrupted training goes on where it was.

Examples, dropout and learning rate hang on the settings and the number of the step, so that the
weights are the same whether or not it was interrupted. Arithmetic is in single precision: other
kinds are fast on a few processors only.
"""

import hashlib
import random
import re
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from recipes.sentiment_mini.compose import Composer, Example, batches
from recipes.sentiment_mini.settings import Settings
from recipes.sentiment_mini.texts import LABELS

SAVE_SECONDS = 240.0
PRINT_STEPS = 50

Model = Any  # a PreTrainedModel; its attributes are typed too loosely for a strict checker
Weights = dict[str, torch.Tensor]


def new_model(base: Path, cfg: Settings) -> Model:
    """The base encoder with a fresh pooler and head."""
    torch.manual_seed(cfg.seed)
    model: Model = AutoModelForSequenceClassification.from_pretrained(
        base,
        dtype=torch.float32,
        id2label={index: name for name, index in LABELS.items()},
        label2id=LABELS,
        problem_type="single_label_classification",
        hidden_dropout_prob=cfg.hidden_dropout,
        attention_probs_dropout_prob=0.0,
        attn_implementation="eager",  # on CPUs twice as fast backwards as the fused kernel
    )
    # The base was trained with mean pooling: its pooler is noise with no bias, so start it anew.
    torch.nn.init.normal_(model.bert.pooler.dense.weight, std=0.02)
    return model


def plan(composer: Composer, cfg: Settings) -> list[list[Example]]:
    """The examples of every step."""
    steps = []
    for number in range(cfg.epochs):
        rows = composer.epoch(number)
        cuts = list(batches([len(ids) for ids, _ in rows], cfg.batch_tokens, cfg.batch_rows))
        random.Random(f"{cfg.seed} order {number}").shuffle(cuts)
        steps += [[rows[i] for i in cut] for cut in cuts]
    return steps


def digest(steps: list[list[Example]]) -> str:
    """The same for the same examples in the same order."""
    found = hashlib.sha256()
    for rows in steps:
        found.update(repr(rows).encode())
    return found.hexdigest()[:16]


def train(model: Model, steps: list[list[Example]], cfg: Settings, work: Path) -> list[Path]:
    """Train `model` in place; returns the files of averaged weights to choose from."""
    optimizer = torch.optim.AdamW(parameter_groups(model, cfg), fused=True)
    rates = [group["lr"] for group in optimizer.param_groups]
    average = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state_file, done = work / "state.pt", 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, done = state["average"], state["step"]
        print(f"goes on after step {done}", flush=True)
    kept = kept_steps(len(steps), cfg)
    model.train()
    saved, loss_sum, loss_count = time.monotonic(), 0.0, 0
    for step in range(done + 1, len(steps) + 1):
        torch.manual_seed(cfg.seed + step)  # the dropout of this step
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * schedule(step, len(steps), cfg)
        loss = loss_of(model, steps[step - 1], cfg)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        # Early on the average forgets faster: the first weights are no good.
        decay = min(cfg.average, step / (step + 10))
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                average[name].lerp_(value, 1 - decay)
        loss_sum, loss_count = loss_sum + loss.item(), loss_count + 1
        if step in kept:
            write(average, work / f"average-{step}.pt")
        if step in kept or time.monotonic() - saved > SAVE_SECONDS:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            write({**state, "average": average, "step": step}, state_file)
            saved = time.monotonic()
        if step % PRINT_STEPS == 0 or step == len(steps):
            now = time.strftime("%H:%M:%S")
            print(f"{now} step {step}/{len(steps)} loss {loss_sum / loss_count:.4f}", flush=True)
            loss_sum, loss_count = 0.0, 0
    model.eval()
    return [work / f"average-{step}.pt" for step in kept]


def kept_steps(count: int, cfg: Settings) -> list[int]:
    """The steps in the second half after which the averaged weights are kept."""
    return [count - count * i // (2 * cfg.candidates) for i in reversed(range(cfg.candidates))]


def write(state: Any, path: Path) -> None:
    """A file that is there is whole."""
    whole = path.with_suffix(".part")
    torch.save(state, whole)
    whole.replace(path)


def schedule(step: int, count: int, cfg: Settings) -> float:
    """The share of the learning rate: it rises, then falls to 0, both evenly."""
    warmup = max(1, int(cfg.warmup * count))
    return min(step / warmup, (count - step + 1) / (count - warmup + 1))


def loss_of(model: Model, rows: list[Example], cfg: Settings) -> torch.Tensor:
    """Cross entropy with the smoothed targets."""
    positive = torch.tensor([target for _, target in rows])
    positive = positive * (1 - cfg.label_smoothing) + cfg.label_smoothing / 2
    targets = torch.stack([1 - positive, positive], dim=1)
    loss: torch.Tensor = torch.nn.functional.cross_entropy(
        forward(model, [ids for ids, _ in rows]), targets
    )
    return loss


def forward(model: Model, rows: list[list[int]]) -> torch.Tensor:
    """The logits of token ids."""
    ids = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits


def parameter_groups(model: Model, cfg: Settings) -> list[dict[str, Any]]:
    """Lower layers learn more slowly; the fresh pooler and head learn faster."""
    layers = model.config.num_hidden_layers
    groups = []
    for name, value in model.named_parameters():
        if found := re.search(r"encoder\.layer\.(\d+)\.", name):
            lr = cfg.lr * cfg.layer_decay ** (layers - 1 - int(found[1]))
        elif "embeddings" in name:
            lr = cfg.lr * cfg.layer_decay**layers
        else:
            lr = cfg.head_lr
        decay = 0.0 if value.ndim == 1 else cfg.weight_decay
        groups.append({"params": [value], "lr": lr, "weight_decay": decay})
    return groups
