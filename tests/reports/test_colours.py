"""One set of colours, of Okabe and Ito's eight, that stay apart for deuteranopes and off the grey of a slice."""

import re

import numpy as np
import pytest
from conftest import REPOSITORY
from matplotlib.colors import to_rgb

from sennet_kaggle.reports import colours

PALETTE = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
ON_SLICES = {name: getattr(colours, name) for name in ("FOUND", "MISSED", "FALSE_ALARM", "PREDICTION", "LABEL")}
# Machado, Oliveira and Fernandes 2009: deuteranopia, severity 1, of linear RGB.
DEUTERANOPIA = np.array(
    [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]]
)


def seen_by_deuteranopes(colour: str) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = (DEUTERANOPIA @ linear).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("name", ON_SLICES)
def test_each_is_of_the_palette_and_no_grey_to_deuteranopes(name):
    assert ON_SLICES[name] in PALETTE
    assert np.ptp(seen_by_deuteranopes(ON_SLICES[name])) > 0.3


def test_found_missed_and_false_stay_apart_for_deuteranopes():
    seen = [seen_by_deuteranopes(ON_SLICES[name]) for name in ("FOUND", "MISSED", "FALSE_ALARM")]
    for i, first in enumerate(seen):
        assert all(np.linalg.norm(first - other) > 0.4 for other in seen[i + 1 :])


def test_no_other_module_has_colours_of_its_own():
    """But for greys, white and the page's own ink and paper; `vessels` comes before this room and has its blue."""
    for path in (REPOSITORY / "sennet_kaggle").rglob("*.py"):
        if path.name != "colours.py":
            allowed = {colours.PREDICTION} if path.parent.name == "vessels" else set()
            assert {*re.findall(r"#[0-9A-Fa-f]{6}\b|\bC\{index\}", path.read_text())} <= allowed, path
    style = (REPOSITORY / "sennet_kaggle" / "reports" / "page.css").read_text()
    for name in re.findall(r"--([a-z-]+):", style):
        assert name in ("ink", "quiet", "line", "grid", "paper", "card"), name
