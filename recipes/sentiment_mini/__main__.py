"""Makes the packaged model `sentiment-mini`: `python -m recipes.sentiment_mini --help`.

Fine-tunes the encoder of all-MiniLM-L6-v2 on sentences, product snippets, long reviews and everyday
sentences written here; chooses among averaged checkpoints, folds a temperature and a class bias
into the head, and saves a folder that `transformers` loads offline. recipes/README.md has the
inputs, their licences and the exact command.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from recipes.sentiment_mini.calibration import Calibration, fit, fold, recalls, score
from recipes.sentiment_mini.compose import Sources, development
from recipes.sentiment_mini.measure import margins, measure
from recipes.sentiment_mini.prose import read_tagged, weak_target
from recipes.sentiment_mini.sentences import Writer, read_lexicon
from recipes.sentiment_mini.settings import Settings
from recipes.sentiment_mini.stages import Stages
from recipes.sentiment_mini.texts import Text, read_texts, split
from recipes.sentiment_mini.training import Model, new_model


def main() -> None:
    args, cfg = parse()
    if args.threads:
        torch.set_num_threads(args.threads)
    lexicon = read_lexicon(args.lexicon)
    sources = Sources(
        movie=split(read_texts(args.sentence_polarity), args.fold),
        snippets=split(read_texts(args.pros_cons), args.fold),
        reviews=split(read_texts(args.reviews), args.fold),
        prose=[(row, weak_target(row, lexicon)) for row in read_tagged(args.prose)],
    )
    if not args.measure_only:
        make(args, cfg, sources, lexicon)

    # What is measured are the saved half-precision files, loaded back in single precision.
    sets = {
        "sentence_polarity held-out": sources.movie.held_out,
        "pros_cons held-out": sources.snippets.held_out,
        **named(args.measure, args.rows),
    }
    found = measure(args.out, sets)
    if args.metrics:
        args.metrics.write_text(json.dumps(found, indent=2) + "\n")


def make(
    args: argparse.Namespace, cfg: Settings, sources: Sources, lexicon: dict[str, float]
) -> None:
    """Train, choose, calibrate and save."""
    prepare_tokenizer(args.base, args.out)
    tokenizer = AutoTokenizer.from_pretrained(args.out)
    vocabulary = set(tokenizer.get_vocab())
    writer = Writer(lexicon, vocabulary)
    stages = Stages(args.work, tokenizer, sources, writer, {"fold": args.fold})
    model = new_model(args.base, cfg)
    candidates = stages.candidates(model, cfg)
    kinds = development(
        sources, Writer(lexicon, vocabulary, development=True), named(args.choose, None), cfg
    )
    path, found = choose(model, tokenizer, candidates, kinds)
    model.load_state_dict(torch.load(path, weights_only=True))
    fold(model, found)
    model.to(torch.float16).save_pretrained(args.out)


def choose(
    model: Model,
    tokenizer: PreTrainedTokenizerBase,
    candidates: list[Path],
    kinds: dict[str, list[Text]],
) -> tuple[Path, Calibration]:
    """The averaged weights whose worse recall is best over all kinds, and their calibration."""
    model.eval()
    best: tuple[float, Path, Calibration] | None = None
    for path in candidates:
        model.load_state_dict(torch.load(path, weights_only=True))
        rows = {
            kind: (
                margins(model, tokenizer, texts)[0],
                torch.tensor([label for _, label in texts]),
            )
            for kind, texts in kinds.items()
        }
        found = fit(rows)
        value = score(rows, found.bias)
        print(f"{path.name}: worse recall {value:.4f}, {found}", flush=True)
        for kind, (values, labels) in rows.items():
            negative, positive = recalls(values + found.bias, labels)
            print(f"  {kind}: recall {negative:.3f} / {positive:.3f}", flush=True)
        if best is None or value > best[0]:
            best = value, path, found
    assert best
    return best[1], best[2]


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


def named(items: list[str], rows: int | None) -> dict[str, list[Text]]:
    """The texts of NAME=PATH."""
    pairs = (item.split("=", 1) for item in items)
    return {name: read_texts(Path(path))[:rows] for name, path in pairs}


def parse() -> tuple[argparse.Namespace, Settings]:
    parser = argparse.ArgumentParser(prog="python -m recipes.sentiment_mini")
    parser.add_argument("--base", type=Path, required=True, help="unpacked base model folder")
    parser.add_argument("--sentence-polarity", type=Path, required=True)
    parser.add_argument("--pros-cons", type=Path, required=True)
    parser.add_argument("--reviews", type=Path, required=True, help="long reviews of 2004")
    parser.add_argument("--prose", type=Path, required=True, help="sentences as word/TAG")
    parser.add_argument("--lexicon", type=Path, required=True, help="vader_lexicon.txt")
    parser.add_argument("--out", type=Path, required=True, help="folder for the model")
    parser.add_argument("--work", type=Path, default=Path("out/sentiment_mini"))
    parser.add_argument(
        "--choose", action="append", default=[], metavar="NAME=PATH",
        help="texts to choose a checkpoint and fit temperature and bias with",
    )  # fmt: skip
    parser.add_argument(
        "--measure", action="append", default=[], metavar="NAME=PATH", help="texts to measure"
    )
    parser.add_argument("--metrics", type=Path, help="also write the figures here, as JSON")
    parser.add_argument("--fold", type=int, default=0, help="which tenth to hold out")
    parser.add_argument("--rows", type=int, help="measure only the first rows of a file")
    parser.add_argument("--measure-only", action="store_true", help="measure the model in --out")
    parser.add_argument("--threads", type=int, help="CPU threads (default: PyTorch's choice)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    args = parser.parse_args()
    changes: dict[str, Any] = dict(item.split("=", 1) for item in args.set)
    for name, value in changes.items():
        changes[name] = type(getattr(Settings, name))(value)
    return args, replace(Settings(), **changes)


if __name__ == "__main__":
    main()
