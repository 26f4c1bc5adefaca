"""How much attention goes to the token before."""

from bertbatch.statistics.neighbour import Neighbour


class ToPrevious(Neighbour):
    """p_ij for j = i − 1"""

    offset = -1
