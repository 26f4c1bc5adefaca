"""Attention statistics: each one small class, with its formula and its source.

Adding one is one module with one class that follows `Statistic`, and one line in
`STATISTICS`. None imports torch, so that a job can be checked without it.
"""

from collections.abc import Sequence

from bertbatch.statistics.concentration import Concentration
from bertbatch.statistics.entropy import Entropy
from bertbatch.statistics.max_weight import MaxWeight
from bertbatch.statistics.mean_distance import MeanDistance
from bertbatch.statistics.normalized_entropy import NormalizedEntropy
from bertbatch.statistics.received_max import ReceivedMax
from bertbatch.statistics.received_mean import ReceivedMean
from bertbatch.statistics.statistic import Statistic
from bertbatch.statistics.to_cls import ToCls
from bertbatch.statistics.to_next import ToNext
from bertbatch.statistics.to_other_segment import ToOtherSegment
from bertbatch.statistics.to_previous import ToPrevious
from bertbatch.statistics.to_punctuation import ToPunctuation
from bertbatch.statistics.to_self import ToSelf
from bertbatch.statistics.to_sep import ToSep

STATISTICS: dict[str, type[Statistic]] = {
    "entropy": Entropy,
    "normalized_entropy": NormalizedEntropy,
    "max_weight": MaxWeight,
    "concentration": Concentration,
    "mean_distance": MeanDistance,
    "to_cls": ToCls,
    "to_sep": ToSep,
    "to_punctuation": ToPunctuation,
    "to_previous": ToPrevious,
    "to_self": ToSelf,
    "to_next": ToNext,
    "to_other_segment": ToOtherSegment,
    "received_mean": ReceivedMean,
    "received_max": ReceivedMax,
}
# Those of one pass over the weights that single texts have.
DEFAULT = [name for name in STATISTICS if not name.startswith(("received", "to_other"))]


def make_statistics(names: Sequence[str]) -> list[Statistic]:
    """The statistics of these names."""
    return [STATISTICS[name](name) for name in names]
