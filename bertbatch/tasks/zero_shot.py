"""Zero-shot classification: which labels fit, by a model that tells what follows from a text.

Scores as transformers' pipeline has them, after https://arxiv.org/abs/1909.00161.
"""

from dataclasses import replace

import numpy as np
import pyarrow as pa

from bertbatch.model.spec import ModelSpec
from bertbatch.model.tokens import Answers
from bertbatch.tasks.multi_label import MultiLabel
from bertbatch.tasks.single_label import SingleLabel


class ZeroShot:
    """A text's score for a label is by the logits of the pair of text and hypothesis.

    For one label of several, softmax over the labels' entailment; with `model.multi_label`, or a
    single candidate, entailment against contradiction, each label for itself.
    """

    def __init__(self, spec: ModelSpec):
        self.shape = (len(spec.labels),)
        asked, labels = spec.asked, spec.asked.candidate_labels
        self._entailment, self._labels = asked.entailment, len(labels)
        self._alone = asked.multi_label or len(labels) == 1
        activation = "sigmoid" if self._alone else "softmax"
        inner = replace(spec, labels=labels, asked=replace(asked, activation=activation))
        self._scores = MultiLabel(inner) if asked.multi_label else SingleLabel(inner)
        self.fields = self._scores.fields

    def columns(self, answers: Answers) -> list[pa.Array]:
        assert answers.parts
        rows = len(answers.parts.counts)
        entailment = answers.values[:, self._entailment]
        if self._alone:  # softmax of two logits is the sigmoid of their difference
            contradiction = -1 if self._entailment == 0 else 0
            entailment = entailment - answers.values[:, contradiction]
        return self._scores.columns(Answers(entailment.reshape(rows, self._labels)))

    def labelled(self, columns: list[pa.Array]) -> tuple[np.ndarray, pa.Array]:
        return self._scores.labelled(columns)
