"""Outputs, disks and consoles."""

from . import Case

TITLE = "Outputs, disks and consoles"
CASES: list[Case] = []
