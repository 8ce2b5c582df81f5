"""What enters the statistics of a volume."""

from . import Case

TITLE = "What enters the statistics of a volume"
CASES: list[Case] = []
