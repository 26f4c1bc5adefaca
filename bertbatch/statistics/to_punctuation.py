"""How much attention goes to punctuation."""

from bertbatch.statistics.mass import Mass


class ToPunctuation(Mass):
    """Σ_j p_ij over tokens of nothing but punctuation; Clark et al. look at periods and commas."""

    kind = "punctuation"
