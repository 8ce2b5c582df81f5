"""Weights and checkpoints."""

from . import Case

TITLE = "Weights and checkpoints"
CASES: list[Case] = []
