from itertools import chain, combinations

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL_SAM

from sennet_kaggle.data.volume import open_volume
from sennet_kaggle.errors import InputError
from sennet_kaggle.models import create_model
from sennet_kaggle.models.sam import SamVessels
from sennet_kaggle.reports.report import to_display
from sennet_kaggle.scoring.metrics import dice_coefficient
from sennet_kaggle.studies.sam_tables import format_zero_shot
from sennet_kaggle.studies.zero_shot import (
    Proposal,
    figure_of_proposals,
    oracle_union,
    paint_masks,
    propose_masks,
    run_zero_shot,
    score_proposals,
)

pytestmark = pytest.mark.usefixtures("one_thread")

ACCEPTING_SAM = {**SMALL_SAM, "pred_iou_thresh": 0.0, "stability_score_thresh": 0.0}
LABEL = "##.../##.../....."


@pytest.fixture(scope="module")
def weights_path(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "sam.pth"
    torch.save(create_model("sam", **ACCEPTING_SAM).sam.state_dict(), path)
    return path


@pytest.fixture
def data_of_two_kidneys(tmp_path, write_kidney):
    """Kidney a with two labelled slices and one without, kidney b with one."""
    write_kidney(tmp_path / "train" / "a", depth=3)
    (tmp_path / "train" / "a" / "labels" / "0001.tif").unlink()
    write_kidney(tmp_path / "train" / "b", depth=1, size=(33, 48))
    return tmp_path


def draw(text):
    return np.array([[pixel == "#" for pixel in row] for row in text.split("/")])


def proposals_of(*texts):
    return [Proposal(draw(text), 0.9 - 0.1 * index) for index, text in enumerate(texts)]


class Stub:
    """Proposes given masks, and remembers the image it was asked about."""

    def __init__(self, *masks):
        self.masks = masks

    def generate(self, image):
        self.image = image
        return [{"segmentation": mask, "area": int(mask.sum()), "predicted_iou": 0.9} for mask in self.masks]


def test_scores_by_hand():
    """The organ, half the vessel, a quarter of it with a pixel beside it, and a miss."""
    proposals = proposals_of("#####/#####/#####", "##.../...../.....", "...../.##../.....", "....#/...../.....")
    scores = score_proposals(proposals, draw(LABEL))
    assert scores["masks"] == 4
    assert scores["dice_union"] == 2 * 4 / (4 + 15)
    assert scores["dice_best"] == 2 * 2 / (4 + 2)
    assert scores["dice_second"] == 2 * 4 / (4 + 15)
    assert scores["dice_third"] == 2 * 1 / (4 + 2)
    assert scores["dice_oracle"] == 2 * 3 / (4 + 4)
    assert [scores[f"area_{rank}"] for rank in ("best", "second", "third")] == [2, 15, 2]
    ious = [scores[f"predicted_iou_{rank}"] for rank in ("best", "second", "third")]
    assert ious == pytest.approx([0.8, 0.9, 0.7])


@pytest.mark.parametrize(
    ("masks", "label", "union", "best", "oracle"),
    [
        pytest.param([], LABEL, 0.0, None, 0.0, id="nothing proposed"),
        pytest.param([], "..../....", 1.0, None, 1.0, id="nothing proposed, no vessel"),
        pytest.param(["##../...."], "..../....", 0.0, 0.0, 1.0, id="no vessel"),
        pytest.param(["##../...."], "##../....", 1.0, 1.0, 1.0, id="right"),
        pytest.param(["####/####"], "##../#...", 6 / 11, 6 / 11, 6 / 11, id="mostly false, yet better than none"),
    ],
)
def test_scores_of_few_masks(masks, label, union, best, oracle):
    scores = score_proposals(proposals_of(*masks), draw(label))
    assert (scores["dice_union"], scores["dice_oracle"]) == (union, oracle)
    assert scores["dice_best"] == best if best is not None else np.isnan(scores["dice_best"])
    assert np.isnan([scores[name] for name in ("dice_third", "area_third", "predicted_iou_third")]).all()


@pytest.mark.parametrize("seed", range(5))
def test_no_choice_of_disjoint_masks_beats_the_oracle(seed):
    rng = np.random.default_rng(seed)
    owner, mask_gt = rng.integers(0, 8, (12, 12)), rng.random((12, 12)) < rng.random((1, 12))
    masks = [owner == index for index in range(7)]
    choices = chain.from_iterable(combinations(masks, number) for number in range(1, 8))
    best = max(dice_coefficient(mask_gt, np.any(choice, axis=0)) for choice in choices)
    oracle = oracle_union([Proposal(mask, 1.0) for mask in masks], mask_gt)
    assert dice_coefficient(mask_gt, oracle) == best


def test_the_model_sees_what_the_report_gave_it():
    """Constant grey stays constant when it is squeezed; the top byte alone is left."""
    model = Stub()
    assert propose_masks(model, np.full((40, 31), 97 * 256 + 255, np.uint16)) == []
    assert model.image.shape == (512, 512, 3) and model.image.dtype == np.uint8
    assert (model.image == 97).all()


def test_windows_are_seen_at_the_slices_own_size():
    """70 x 50 pixels in windows of 40: rows from 0 and 30, columns from 0 and 10 (8 pixels overlap at least)."""
    slice_ = np.random.default_rng(0).integers(0, 2**16, (70, 50), dtype=np.uint16)
    images = []

    class Corner:
        """Proposes the upper left pixel of what it is shown, and all of it."""

        def generate(self, image):
            images.append(image[..., 0])
            corner = np.zeros(image.shape[:2], bool)
            corner[0, 0] = True
            masks = (corner, np.ones_like(corner))
            return [{"segmentation": mask, "area": int(mask.sum()), "predicted_iou": 0.5} for mask in masks]

    proposals = propose_masks(Corner(), slice_, window_size=40)
    corners = [(row, column) for row in (0, 30) for column in (0, 10)]
    for image, (row, column) in zip(images, corners, strict=True):
        np.testing.assert_array_equal(image, slice_[row : row + 40, column : column + 40] >> 8)
    assert [int(proposal.mask.sum()) for proposal in proposals] == [1600] * 4 + [1] * 4  # the largest first
    assert [tuple(np.argwhere(proposal.mask)[0]) for proposal in proposals[4:]] == corners


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window_size": 8}, "window_size must lie in 32..8192, got 8"),
        ({"precision": "half"}, "precision must be one of float32, bfloat16, float16, got 'half'"),
    ],
)
def test_settings_out_of_range(data_of_two_kidneys, weights_path, changes, message):
    with pytest.raises(InputError, match=message):
        run_zero_shot(data_of_two_kidneys, data_of_two_kidneys / "out", weights_path, **changes)


def test_other_arithmetic_gives_nearly_the_same_masks(data_of_two_kidneys, weights_path):
    """bfloat16 inside, float32 to numpy; the text is the table's."""
    table = run_zero_shot(
        data_of_two_kidneys,
        data_of_two_kidneys / "out",
        weights_path,
        volume_names=["b"],
        precision="bfloat16",
        model_arguments=ACCEPTING_SAM,
        window_size=32,
    )
    assert (table["masks"] > 0).all()
    assert (data_of_two_kidneys / "out" / "zero-shot.md").read_text() == format_zero_shot(table)


def test_without_a_square_the_model_sees_the_slice_itself():
    slice_ = np.random.default_rng(0).integers(0, 2**16, (40, 31), dtype=np.uint16)
    mask = slice_ > 40000
    model = Stub(mask)
    (proposal,) = propose_masks(model, slice_, roi_size=None)
    np.testing.assert_array_equal(model.image, np.repeat((slice_ >> 8).astype(np.uint8)[..., None], 3, axis=2))
    np.testing.assert_array_equal(proposal.mask, mask)


def test_masks_come_back_at_the_slices_size_largest_first():
    small, large = (np.zeros((8, 8), bool) for _ in range(2))
    small[:, 0], large[:4] = True, True
    proposals = propose_masks(Stub(small, large), np.zeros((16, 24), np.uint16), roi_size=8)
    half, columns = np.zeros((16, 24), bool), np.zeros((16, 24), bool)
    half[:8], columns[:, :3] = True, True
    np.testing.assert_array_equal([proposal.mask for proposal in proposals], [half, columns])


def test_masks_are_painted_over_one_another_in_colours_of_their_own():
    display = np.full((1, 4, 3), 0.5)
    large, small = draw("###."), draw("#...")
    painted = paint_masks(display, [large, small])
    assert len({tuple(pixel) for pixel in painted[0].tolist()}) == 3
    assert (painted[0, 3] == 0.5).all() and (painted[0, 1] == painted[0, 2]).all()
    np.testing.assert_array_equal(painted, paint_masks(display, [large, small]))
    np.testing.assert_array_equal(painted[0, 1], paint_masks(display, [large])[0, 0])
    assert np.abs(painted - display).max() <= 0.35 / 2


def test_figure():
    proposals, mask_gt = proposals_of("#####/#####/#####", "##.../#..../....."), draw(LABEL)
    slice_ = np.arange(15, dtype=np.uint16).reshape(3, 5)
    figure = figure_of_proposals("k_0001", slice_, proposals, mask_gt)
    pictures = [np.asarray(axis.images[0].get_array()) for axis in figure.axes]
    np.testing.assert_array_equal(pictures[0], paint_masks(to_display(slice_), [p.mask for p in proposals]))
    np.testing.assert_array_equal(pictures[1], to_display(slice_))
    masks_title, errors_title, _ = (axis.get_title() for axis in figure.axes)
    assert masks_title == "k_0001: 2 masks, together Dice 0.421"
    assert errors_title == "best mask: Dice 0.857: 3 px found, 1 missed, 0 false"
    assert "Dice 0.857 (3 px, predicted IoU 0.80), Dice 0.421 (15 px" in figure.get_suptitle()
    assert figure_of_proposals("k_0001", slice_, [], mask_gt).get_suptitle() == "best single masks: none"


def test_all_labelled_slices_with_the_real_classes(data_of_two_kidneys, weights_path, capsys):
    output_dir = data_of_two_kidneys / "runs" / "sam"
    table = run_zero_shot(data_of_two_kidneys, output_dir, weights_path, model_arguments=ACCEPTING_SAM, device="cpu")
    assert table["slice"].tolist() == ["a_0000", "a_0002", "b_0000"]
    model = create_model("sam", weights_path=weights_path, max_area_fraction=None, **ACCEPTING_SAM)
    volume = open_volume(data_of_two_kidneys / "train" / "b")
    scores = score_proposals(propose_masks(model, volume[0]), volume.label(0))
    assert scores["masks"] > 0 and table.iloc[2][list(scores)].to_dict() == pytest.approx(scores, nan_ok=True)
    assert list(table.columns[:7]) == [
        "slice",
        "masks",
        *(f"dice_{n}" for n in "union best second third oracle".split()),
    ]
    pd.testing.assert_frame_equal(pd.read_csv(output_dir / "zero-shot.csv"), table, check_dtype=False)
    pictures = sorted(output_dir.glob("*.png"))
    assert [path.stem for path in pictures] == table["slice"].tolist()
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in pictures)
    progress = capsys.readouterr().err
    assert "proposing masks: 100%" in progress and "slice" in progress


@pytest.mark.parametrize(
    ("chosen", "slices"),
    [
        ({"volume_names": ["b"]}, ["b_0000"]),
        ({"slice_ids": ["b_0000", "a_0002"]}, ["a_0002", "b_0000"]),
        ({"volume_names": ["a"], "slice_ids": ["a_0000"]}, ["a_0000"]),
    ],
)
def test_slices_can_be_chosen(data_of_two_kidneys, weights_path, monkeypatch, chosen, slices):
    monkeypatch.setattr(SamVessels, "generate", lambda self, image: [])
    table = run_zero_shot(
        data_of_two_kidneys, data_of_two_kidneys / "out", weights_path, model_arguments=ACCEPTING_SAM, **chosen
    )
    assert table["slice"].tolist() == slices
    assert table["dice_best"].isna().all() and (table["dice_union"] == 0).all()


@pytest.mark.parametrize(("arguments", "limit"), [({}, None), ({"max_area_fraction": 0.2}, 0.2)])
def test_the_organ_is_kept_unless_told_otherwise(data_of_two_kidneys, weights_path, monkeypatch, arguments, limit):
    limits = []
    monkeypatch.setattr(SamVessels, "generate", lambda self, image: limits.append(self.max_area_fraction) or [])
    arguments = {**ACCEPTING_SAM, **arguments}
    run_zero_shot(data_of_two_kidneys, data_of_two_kidneys, weights_path, volume_names=["b"], model_arguments=arguments)
    assert limits == [limit]


def test_what_is_done_is_kept_when_it_is_stopped(data_of_two_kidneys, weights_path, monkeypatch):
    answers = iter([[]])
    monkeypatch.setattr(SamVessels, "generate", lambda self, image: next(answers))
    with pytest.raises(StopIteration):
        run_zero_shot(data_of_two_kidneys, data_of_two_kidneys, weights_path, model_arguments=ACCEPTING_SAM)
    assert pd.read_csv(data_of_two_kidneys / "zero-shot.csv")["slice"].tolist() == ["a_0000"]
    assert [path.name for path in data_of_two_kidneys.glob("*.png")] == ["a_0000.png"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights_path": None}, r"weights are missing \(none given\): download sam_vit_b_01ec64.pth .*--weights-path"),
        ({"weights_path": "no.pth"}, r"weights are missing \(nothing at no.pth\): download .*attach it as a dataset"),
        ({"weights_path": "broken"}, "broken.pth must be a whole file of tensors, found damage"),
        ({"model_arguments": {**ACCEPTING_SAM, "embed_dim": 64}}, "do not fit SAM vit_b: .*choose their variant"),
        ({"slice_ids": ["a_0001"]}, "a_0001 is not a labelled slice: expected one of a_0000, a_0002, b_0000"),
        ({"volume_names": ["c"]}, "has no kidney c: found a, b"),
        ({"device": "tpu"}, "device must be auto, cpu, cuda"),
    ],
)
def test_errors_are_one_line_and_leave_nothing(data_of_two_kidneys, weights_path, changes, message):
    settings = {"weights_path": weights_path, "model_arguments": ACCEPTING_SAM, **changes}
    if settings["weights_path"] == "broken":
        settings["weights_path"] = data_of_two_kidneys / "broken.pth"
        settings["weights_path"].write_bytes(weights_path.read_bytes()[:-50])
    output_dir = data_of_two_kidneys / "out"
    with pytest.raises(InputError, match=message) as caught:
        run_zero_shot(data_of_two_kidneys, output_dir, **settings)
    assert "\n" not in str(caught.value) and not output_dir.exists()
