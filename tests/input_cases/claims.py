"""What is claimed."""

from . import Case

TITLE = "What is claimed"
CASES: list[Case] = []
