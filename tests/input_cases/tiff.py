"""Slices and labels."""

from . import Case

TITLE = "Slices and labels"
CASES: list[Case] = []
