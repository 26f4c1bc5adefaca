"""Statistics from sums over attention weights, taken while the weights are computed.

What the kernels for GPUs and for CPUs have in common: which sums there are, and how means are made
of them. The formulas are those of `statistics/`.
"""

from collections.abc import Sequence
from enum import IntEnum

import numpy as np

from bertbatch.model.token_kinds import TokenClasses
from bertbatch.model.tokens import Batch
from bertbatch.statistics.statistic import Statistic

SUMS = 16  # of a sequence and a head, of which `Sum` names those in use; so in the kernels
KINDS_OF_TOKENS = ("cls", "sep", "punctuation")  # the second segment follows


class Sum(IntEnum):
    """The place of a sum over the queries that count, of one sequence and head."""

    ENTROPY = 0
    MAX_WEIGHT = 1
    SQUARES = 2
    DISTANCE = 3
    PREVIOUS = 4
    SELF = 5
    NEXT = 6
    RECEIVED = 7
    CLS = 8  # from here on in the order of the kinds
    SEP = 9
    PUNCTUATION = 10
    OTHER_SEGMENT = 11
    MOST_RECEIVED = 15  # a maximum


PLACES = {
    "entropy": Sum.ENTROPY,
    "normalized_entropy": Sum.ENTROPY,
    "max_weight": Sum.MAX_WEIGHT,
    "concentration": Sum.SQUARES,
    "mean_distance": Sum.DISTANCE,
    "to_cls": Sum.CLS,
    "to_sep": Sum.SEP,
    "to_punctuation": Sum.PUNCTUATION,
    "to_previous": Sum.PREVIOUS,
    "to_self": Sum.SELF,
    "to_next": Sum.NEXT,
    "to_other_segment": Sum.OTHER_SEGMENT,
    "received_mean": Sum.RECEIVED,
    "received_max": Sum.MOST_RECEIVED,
}


class OnePass:
    """What a batch's sums need. Raises ValueError if a statistic has no sum."""

    def __init__(self, statistics: Sequence[Statistic], classes: TokenClasses, counts_all: bool):
        if others := [s.name for s in statistics if s.name not in PLACES]:
            raise ValueError(f"there is no kernel for {', '.join(others)}")
        self._names = [statistic.name for statistic in statistics]
        self.places = np.array([PLACES[name] for name in self._names])
        self.over_keys = any(statistic.over_keys for statistic in statistics)
        self._classes = classes
        self._all = counts_all

    def kinds(self, batch: Batch) -> list[np.ndarray]:
        """Whether each token is of a kind, or in the second segment: bool [tokens] each."""
        lengths = batch.lengths
        place = np.arange(len(batch.ids)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        # Clipped: a probe may have ids that the tokenizer's vocabulary lacks.
        known = (self._classes.kinds[kind] for kind in KINDS_OF_TOKENS)
        found = [of.take(batch.ids, mode="clip") for of in known]
        return [*found, place >= np.repeat(batch.pair_starts, lengths)]

    def counted(self, batch: Batch) -> np.ndarray:
        """Whether each token counts as a query: bool [tokens]"""
        if self._all:
            return np.ones(len(batch.ids), bool)
        counted: np.ndarray = ~self._classes.special.take(batch.ids, mode="clip")
        return counted

    def counts(self, batch: Batch, counted: np.ndarray) -> np.ndarray:
        """The query tokens behind each value, int32 [rows, statistics].

        As `Statistic.counted` has them, without a mask of rows × the longest for each statistic.
        """
        lengths = batch.lengths
        starts = np.cumsum(lengths) - lengths
        found = np.add.reduceat(counted, starts, dtype=np.int32)
        counts = np.repeat(found[:, None], len(self._names), 1)
        for column, name in enumerate(self._names):
            if name == "to_previous":
                counts[:, column] -= counted[starts]
            elif name == "to_next":
                counts[:, column] -= counted[starts + lengths - 1]
            elif name == "to_other_segment":
                counts[:, column] *= batch.pair_starts < lengths
            elif name == "normalized_entropy":
                counts[:, column] *= lengths > 1
        return counts

    def factors(self, counts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """What sums are multiplied by for means, float32 [rows, statistics]."""
        factors = np.where(counts > 0, 1 / np.maximum(counts, 1), 0)
        for column, name in enumerate(self._names):
            if name == "normalized_entropy":
                factors[:, column] /= np.log(np.maximum(lengths, 2))
            elif name == "received_mean":
                factors[:, column] **= 2
        return factors.astype(np.float32)
