"""Masks cut from probability maps that are drawn by hand."""

import numpy as np
import pytest
import torch

from sennet_kaggle.data.bits import fetch_mask

MAP = """
    9 5 . . 5 5
    . . 5 . . .
    . . . . 9 .
    5 5 . . . .
"""
FOUND = """
    # # . . . .
    . . # . . .
    . . . . # .
    . . . . . .
"""


def draw(text: str) -> np.ndarray:
    return np.array([line.split() for line in text.strip().splitlines()])


@pytest.mark.parametrize(
    ("hysteresis", "expected"),
    [(1.0, draw(MAP) == "9"), (0.5, draw(FOUND) == "#"), (0.7, draw(MAP) == "9")],
)
def test_what_leads_to_a_sure_pixel_is_vessel(hysteresis, expected):
    """0.5 next to 0.9, or across a corner from what leads to it, counts from 0.4 up; islands of 0.5 never do."""
    probability = torch.from_numpy(np.where(draw(MAP) == "9", 0.9, np.where(draw(MAP) == "5", 0.5, 0.1)))
    np.testing.assert_array_equal(fetch_mask(probability, 0.8, hysteresis), expected)


def test_where_nothing_is_sure_nothing_is_found():
    assert not fetch_mask(torch.full((4, 5), 0.6), 0.8, 0.5).any()
    assert not fetch_mask(torch.full((4, 5), torch.nan), 0.8, 0.5).any()
    assert fetch_mask(torch.full((4, 5), 0.9), 0.8, 0.5).all()
