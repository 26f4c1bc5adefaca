"""How much attention goes to the classification token."""

from bertbatch.statistics.mass import Mass


class ToCls(Mass):
    """Σ_j p_ij over the tokens [CLS] or <s>."""

    kind = needs = "cls"
