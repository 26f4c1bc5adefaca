"""How much attention goes to the separators."""

from bertbatch.statistics.mass import Mass


class ToSep(Mass):
    """Σ_j p_ij over the tokens [SEP] or </s>: attention that does nothing, by Clark et al."""

    kind = needs = "sep"
