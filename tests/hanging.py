"""A candidate that hangs, in a module that other processes find."""

from time import sleep

from tabmtl import SharedTrees


class Hanging(SharedTrees):
    """A candidate whose fit does not look at the time."""

    def _fit(self, coder, rows, valid, seed):
        sleep(600)
