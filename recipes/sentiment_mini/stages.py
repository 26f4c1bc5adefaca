"""The stages of the training: one long, and short ones that each go on from its mean weights.

Each short one has other examples. All end near each other, so that the mean of their weights is a
model, too, and better than each: Wortsman et al. 2022, https://arxiv.org/abs/2203.05482.
"""

import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from recipes.sentiment_mini.compose import Composer, Sources
from recipes.sentiment_mini.sentences import Writer
from recipes.sentiment_mini.settings import BRANCH_SIZE, BRANCHES, Settings
from recipes.sentiment_mini.training import Model, Weights, digest, plan, train, write


@dataclass
class Stages:
    """What the stages have in common. `facts` are what else a training hangs on."""

    work: Path
    tokenizer: PreTrainedTokenizerBase
    sources: Sources
    writer: Writer
    facts: dict[str, Any]

    def candidates(self, model: Model, cfg: Settings) -> list[Path]:
        """Trains `model`: files of weights of the first stage, of each branch, and of all."""
        files = self._stage(model, cfg, "first")
        found = [mean(files, self.work / "first.pt")]
        for number, changes in enumerate(BRANCHES, 1):
            model.load_state_dict(torch.load(found[0], weights_only=True))
            own = replace(cfg, size=BRANCH_SIZE * cfg.size, **changes)
            found += self._stage(model, own, f"branch-{number}")
        return [*found, mean(found, self.work / "mean.pt")]

    def _stage(self, model: Model, cfg: Settings, name: str) -> list[Path]:
        began = time.monotonic()
        steps = plan(Composer(self.tokenizer, self.sources, self.writer, cfg), cfg)
        tokens = sum(len(ids) for rows in steps for ids, _ in rows)
        print(f"{name}: {len(steps)} steps, {tokens} tokens", flush=True)
        folder = self.work / name
        folder.mkdir(parents=True, exist_ok=True)
        same_training(folder, {**asdict(cfg), **self.facts, "examples": digest(steps)})
        files = train(model, steps, cfg, folder)
        print(f"{name}: {time.monotonic() - began:.0f} s since this start", flush=True)
        return files


def mean(files: list[Path], to: Path) -> Path:
    """Writes the mean of weights."""
    states: list[Weights] = [torch.load(file, weights_only=True) for file in files]
    write(
        {
            name: torch.stack([state[name] for state in states]).mean(0)
            if value.is_floating_point()
            else value
            for name, value in states[0].items()
        },
        to,
    )
    return to


def same_training(folder: Path, training: dict[str, Any]) -> None:
    """A folder that a training with other settings or examples began in is not gone on with."""
    file = folder / "training.json"
    if file.exists() and (began := json.loads(file.read_text())) != training:
        others = ", ".join(name for name in training if began.get(name) != training[name])
        raise SystemExit(f"error: {folder} is of another training; not the same: {others}")
    file.write_text(json.dumps(training, indent=2) + "\n")
