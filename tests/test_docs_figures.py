"""The pictures of docs/ are of the checkpoint that is shipped: else `make docs-figures` has to be run again."""

import importlib.util

import numpy as np
import pytest
from conftest import REPOSITORY
from matplotlib.figure import Figure

from sennet_kaggle.files import shipped_checkpoints
from sennet_kaggle.rendering import add_text, figure_to_png, read_text
from sennet_kaggle.submission.provenance import hash_file

DOCS = REPOSITORY / "docs"
# Of other programs, which their pages name.
OTHERS = {"napari.png", "vessels.png"}
PICTURES = [*(path for path in DOCS.glob("*.png") if path.name not in OTHERS), DOCS / "model" / "checkpoint.png"]
# The masks that it shows are of another model, which the picture names.
OF_OTHERS = {"tree.png"}


@pytest.mark.parametrize("path", PICTURES, ids=lambda path: path.name)
def test_a_picture_names_the_shipped_checkpoint(path):
    texts = read_text(path.read_bytes())
    assert texts.get("made by") == "make docs-figures", f"{path.name} was made by hand: run make docs-figures"
    if path.name in OF_OTHERS:
        assert texts["masks"].startswith("predictions/") and "checkpoint" not in texts
        return
    shipped = " ".join(map(hash_file, shipped_checkpoints()))
    assert texts["checkpoint"] == shipped, f"{path.name} is of an earlier checkpoint: run make docs-figures"


def test_the_command_draws_every_picture():
    spec = importlib.util.spec_from_file_location("make_figures", DOCS / "make_figures.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert {DOCS / name for name in module.FIGURES} == {*PICTURES}


def test_texts_stand_in_the_file_and_the_pixels_stay(tmp_path):
    import cv2

    figure = Figure(figsize=(1, 1))
    png = figure_to_png(figure)
    path = tmp_path / "a.png"
    path.write_bytes(add_text(png, {"checkpoint": "0123", "made by": "a test, µ"}))
    texts = read_text(path.read_bytes())
    assert (texts["checkpoint"], texts["made by"]) == ("0123", "a test, µ")
    before = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(cv2.imread(str(path), cv2.IMREAD_UNCHANGED), before)
