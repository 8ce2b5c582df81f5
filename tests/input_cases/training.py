"""Training."""

from . import Case

TITLE = "Training"
CASES: list[Case] = []
