"""One set of colours, of Okabe and Ito's eight, that colour-blind readers tell apart, also from the grey of a slice."""

import re

import numpy as np
import pytest
from conftest import REPOSITORY
from matplotlib.colors import to_rgb

from sennet_kaggle.rendering import SERIES
from sennet_kaggle.reports import colours

PALETTE = {"#000000", "#E69F00", "#56B4E9", "#009E73", "#F0E442", "#0072B2", "#D55E00", "#CC79A7"}
ON_SLICES = {name: getattr(colours, name) for name in ("FOUND", "MISSED", "FALSE_ALARM", "PREDICTION", "LABEL")}
# Machado, Oliveira and Fernandes 2009: severity 1, of linear RGB.
BLINDNESS = {
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def seen_with(blindness: str, colour: str) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = (np.array(BLINDNESS[blindness]) @ linear).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


@pytest.mark.parametrize("blindness", BLINDNESS)
@pytest.mark.parametrize("name", ON_SLICES)
def test_each_is_of_the_palette_and_no_grey(name, blindness):
    assert ON_SLICES[name] in PALETTE
    least = 0.08 if (name, blindness) == ("FALSE_ALARM", "tritanopia") else 0.25  # nearly white there: they are dotted
    assert np.ptp(seen_with(blindness, ON_SLICES[name])) > least


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_found_missed_and_false_stay_apart(blindness):
    seen = [seen_with(blindness, ON_SLICES[name]) for name in ("FOUND", "MISSED", "FALSE_ALARM")]
    for i, first in enumerate(seen):
        assert all(np.linalg.norm(first - other) > 0.35 for other in seen[i + 1 :])


@pytest.mark.parametrize("blindness", BLINDNESS)
def test_curves_stay_apart(blindness):
    """Some by little: they differ in their dashes as well."""
    seen = [seen_with(blindness, colour) for colour in SERIES]
    assert {*SERIES} < PALETTE
    for i, first in enumerate(seen):
        assert all(np.linalg.norm(first - other) > 0.1 for other in seen[i + 1 :])


def test_no_other_module_has_colours_of_its_own():
    """But for greys, white and the page's own ink and paper."""
    for path in (REPOSITORY / "sennet_kaggle").rglob("*.py"):
        if path.name not in ("rendering.py", "colours.py"):
            assert not re.findall(r"#[0-9A-Fa-f]{6}\b|\bC\{index\}", path.read_text()), path
    style = (REPOSITORY / "sennet_kaggle" / "reports" / "page.css").read_text()
    for name in re.findall(r"--([a-z-]+):", style):
        assert name in ("ink", "quiet", "line", "grid", "paper", "card"), name
