"""How much attention goes to the token after."""

from bertbatch.statistics.neighbour import Neighbour


class ToNext(Neighbour):
    """p_ij for j = i + 1"""

    offset = 1
