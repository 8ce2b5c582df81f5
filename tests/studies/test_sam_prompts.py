"""Prompts from components, views around them, and the tables, on small drawings."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL_SAM, write_tiff

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.errors import InputError
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.studies import sam_prompts
from sennet_kaggle.studies.sam_prompts import View, answer_prompts, components, prompt_slice, run_prompts, view_of
from sennet_kaggle.studies.sam_tables import format_prompts

pytestmark = pytest.mark.usefixtures("one_thread")


def draw(text):
    return np.array([[pixel == "#" for pixel in row] for row in text.split("/")])


def test_components_are_whole_and_sorted():
    """Neighbours over a corner belong together; 3, 2 and 1 pixels."""
    parts = components(draw("##...#/..#.../....../#....#/.....#"), 1)
    assert [int(part.sum()) for part in parts] == [3, 2, 1, 1]
    np.testing.assert_array_equal(parts[0], draw("##..../..#.../....../....../......"))
    assert len(components(draw("##...#/..#.../....../#....#/.....#"), 2)) == 2
    assert components(np.zeros((3, 4), bool), 1) == []


class Recorder:
    """Stands for SamPredictor: remembers prompts, answers with masks of its own."""

    def __init__(self, shape):
        self.shape, self.asked = shape, []

    def predict(self, box=None, point_coords=None, point_labels=None, multimask_output=True):
        self.asked.append((box, point_coords, point_labels, multimask_output))
        masks = np.zeros((3 if multimask_output else 1, *self.shape), bool)
        masks[-1, 0, 0] = True  # the best one
        return masks, np.arange(len(masks)), None


def test_prompts_are_in_the_views_own_pixels():
    """A vessel of rows 12..14 and columns 23..27, seen in a view whose corner is at row 10, column 20."""
    component = np.zeros((40, 50), bool)
    component[12:15, 23:28] = True
    predictor = Recorder((16, 16))
    answers = dict(answer_prompts(predictor, component, View(10, 20, 16)))
    box, point, both = predictor.asked
    assert box[0].tolist() == [2, 1, 9, 6] and box[1] is None and box[3] is False  # one pixel of margin, XYXY
    assert point[0] is None and point[1].shape == (1, 2) and point[2].tolist() == [1] and point[3] is True
    assert (
        point[1][0, 1] == 13 - 10 + 0.5 and 24.5 <= point[1][0, 0] + 20 <= 26.5
    )  # the middle row, away from both ends
    assert both[0].tolist() == box[0].tolist() and both[1].tolist() == point[1].tolist() and both[3] is False
    assert list(answers) == ["box", "point", "box and point"]
    for mask in answers.values():
        assert mask.shape == (40, 50) and np.argwhere(mask).tolist() == [[10, 20]]


def test_a_view_reaches_to_the_slices_end_only():
    component = np.zeros((300, 200), bool)
    component[290:299, 5:9] = True
    view = view_of(component, sam_prompts.WINDOW)
    assert view == View(44, 0, 256)  # rows 44..299, columns 0..199
    (answer,) = {mask.shape for _, mask in answer_prompts(Recorder((256, 200)), component, view)}
    assert answer == (300, 200)
    assert view_of(component, sam_prompts.WHOLE) == View(0, 0, 300)
    component[:, 50] = True
    assert view_of(component, sam_prompts.WINDOW) == View(0, 0, 512)  # 1.5 times 300 is 450, in steps of 64


class BoxSam:
    """Fills a box; a point alone gives nothing."""

    def set_image(self, image):
        self.shape = image.shape[:2]

    def predict(self, box=None, multimask_output=True, **_):
        mask = np.zeros((1, *self.shape), bool)
        if box is not None:
            left, top, right, bottom = box.astype(int).clip(0)
            mask[0, top + 1 : bottom - 1, left + 1 : right - 1] = True
        return mask, np.ones(1), None


@pytest.fixture
def box_sam(monkeypatch):
    def encode(model, image, view):
        predictor = BoxSam()
        predictor.set_image(image[view.top : view.top + view.side, view.left : view.left + view.side])
        return predictor

    monkeypatch.setattr(sam_prompts, "_encode", encode)


def test_answers_are_compared_with_what_a_component_touches(box_sam):
    """A vessel of 2 x 4 pixels, of which the model has the left half and beside it a blob that is none."""
    mask_gt, mask_model = np.zeros((20, 20), bool), np.zeros((20, 20), bool)
    mask_gt[5:7, 4:8] = True
    mask_model[5:7, 4:6] = True
    mask_model[15:18, 15:18] = True
    image = np.zeros((20, 20, 3), np.uint8)
    rows = pd.DataFrame(row for row, _ in prompt_slice(None, image, mask_gt, mask_model, 4, (sam_prompts.WHOLE,)))
    rows = rows.set_index(["source", "area", "prompt"]).sort_index()
    assert rows.loc["label", 8, "box"][["iou", "iou_before", "rank"]].tolist() == [1, 1, 1]
    assert rows.loc["label", 8, "point"]["iou"] == 0
    assert rows.loc["model", 4, "box"][["iou", "iou_before", "rank"]].tolist() == [0.5, 0.5, 2]
    assert rows.loc["model", 9, "box"][["iou", "iou_before"]].isna().all()
    assert len(rows) == 3 * 3


def test_tables():
    table = pd.DataFrame(
        [
            ("k_1_0001", "label", 0, 150, 1, "window", "box", 0.8, 1.0),
            ("k_1_0001", "label", 1, 120, 3, "window", "box", 0.4, 1.0),
            ("k_1_0001", "model", 2, 140, 1, "window", "box", 0.7, 0.6),
            ("k_1_0001", "model", 3, 700, 2, "window", "box", 0.5, 0.9),
            ("k_1_0001", "model", 4, 30, 3, "window", "box", np.nan, np.nan),
        ],
        columns=["slice", "source", "component", "area", "rank", "view", "prompt", "iou", "iou_before"],
    )
    text = format_prompts(table)
    assert "| k_1 | window | box | 2 | 0.60 | 0.60 |  | 0.60 |  |  |  | 1 | 0.80 | 0.80 |" in text
    assert (
        "| k_1 | window | box | 0.75 → 0.60 |  | 0.60 → 0.70, better 1 of 1 |  | 0.90 → 0.50, better 0 of 1 |  |"
        in text
    )
    assert "1 of the model's components touch no vessel" in text
    assert format_prompts(table[table["source"] == "label"]).count("|\n") == 3  # header, rule and row


@pytest.fixture
def study(tmp_path):
    """A kidney with one labelled slice of two vessels, weights of a small SAM, and a checkpoint of a small U-Net."""
    rng = np.random.default_rng(0)
    label = np.zeros((60, 70), np.uint8)
    label[10:16, 10:20], label[30:34, 40:44] = 255, 255
    write_tiff(tmp_path / "data/train/k/images/0000.tif", rng.integers(0, 2**16, label.shape, dtype=np.uint16))
    write_tiff(tmp_path / "data/train/k/labels/0000.tif", label)
    torch.manual_seed(0)
    torch.save(create_model("sam", **SMALL_SAM).sam.state_dict(), tmp_path / "sam.pth")
    unet = {"widths": [4, 8], "bottleneck": 8, "in_channels": 1}
    card = Card("unet", unet, Preprocessing(region="windows", roi_size=64, mean=(0.5,), std=(0.2,)), 0.5)
    save_checkpoint(tmp_path / "unet.safetensors", create_model("unet", **unet), card)
    return tmp_path


def run(study, **changes):
    settings = {"checkpoints": [study / "unet.safetensors"], "min_area": 20, "model_arguments": SMALL_SAM, **changes}
    return run_prompts(study / "data", study / "out", settings.pop("weights_path", study / "sam.pth"), **settings)


def test_the_study_writes_table_text_and_picture(study):
    table = run(study, views=("window",))
    labels = table[table["source"] == "label"]
    assert labels["area"].tolist() == [60, 60, 60]  # the vessel of 16 pixels is too small
    assert labels["prompt"].tolist() == ["box", "point", "box and point"] and labels["iou"].between(0, 1).all()
    names = sorted(path.name for path in (study / "out").iterdir())
    assert names == ["prompts.csv", "prompts.md", "prompts.png"]
    assert (study / "out/prompts.md").read_text() == format_prompts(pd.read_csv(study / "out/prompts.csv"))


def test_random_weights_need_no_file(study):
    assert len(run(study, weights_path=None, random_weights=True, views=("whole slice",))) >= 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_path": None}, "weights are missing"),
        ({"views": ("slice",)}, "views must be among 'whole slice' and 'window', got .'slice'."),
        ({"views": ()}, "views must be among .* got none"),
        ({"min_area": 0}, "min_area must be at least 1 pixel, got 0"),
        ({"precision": "float8"}, "precision must be one of float32, bfloat16, float16, got 'float8'"),
        ({"slice_ids": ["k_0009"]}, "k_0009 is not a labelled slice"),
        ({"checkpoints": ["no.safetensors"]}, "checkpoint no.safetensors is missing"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(study, changes, message):
    with pytest.raises(InputError, match=message) as caught:
        run(study, **changes)
    assert "\n" not in str(caught.value) and not (study / "out").exists()
