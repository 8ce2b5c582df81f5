"""Submissions and scores."""

from . import Case

TITLE = "Submissions and scores"
CASES: list[Case] = []
