"""The recipe for a Japanese classifier, and the example that uses it."""

import runpy
import sys

import pandas as pd
import pytest

from recipes import japanese
from tests.helpers.paths import ROOT

GOOD = ["とても良い", "最高の朝食", "広くて快適", "また泊まりたい", "親切で丁寧"]
BAD = ["とても悪い", "最低の朝食", "狭くて不快", "二度と泊まらない", "雑で失礼"]
ENDS = ["。", "です。", "でした!", "、本当に。", "と思う。", "ホテル。", "部屋。", "夜。"]


def test_the_recipe_makes_a_model_that_the_example_uses(tmp_path, monkeypatch, capsys):
    rows = [
        {"text": words + end, "label": label}
        for label, texts in (("positive", GOOD), ("negative", BAD), ("neutral", ["普通"]))
        for words in texts
        for end in ENDS
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "sentences.csv", index=False)
    monkeypatch.setattr(japanese, "EPOCHS", 50)
    words = ["japanese", str(tmp_path / "sentences.csv"), str(tmp_path / "model")]
    monkeypatch.setattr(sys, "argv", words)
    japanese.main()
    said = capsys.readouterr().out
    assert "on 8 held-out sentences" in said
    monkeypatch.setattr(sys, "argv", ["japanese.py", str(tmp_path / "model"), *GOOD[:2], *BAD[:2]])
    runpy.run_path(str(ROOT / "examples" / "japanese.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "by hand: positive"
    assert [line.split()[0] for line in lines[1:]] == ["positive"] * 2 + ["negative"] * 2
    assert [line.split()[2] for line in lines[1:]] == [*GOOD[:2], *BAD[:2]]


def test_the_example_without_a_model_says_how(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["japanese.py"])
    with pytest.raises(SystemExit, match=r"recipes\.japanese"):
        runpy.run_path(str(ROOT / "examples" / "japanese.py"), run_name="__main__")
