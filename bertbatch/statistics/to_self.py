"""How much attention goes to the token itself."""

from bertbatch.statistics.neighbour import Neighbour


class ToSelf(Neighbour):
    """p_ii"""

    offset = 0
