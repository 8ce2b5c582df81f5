import json

import numpy as np
import pytest
from conftest import write_tiff

from sennet_kaggle.__main__ import main
from sennet_kaggle.errors import InputError
from sennet_kaggle.metrics import cl_dice, dice_coefficient, surface_dice_at_tolerance
from sennet_kaggle.rle import rle_encode
from sennet_kaggle.score import Scores, format_scores, mean_scores, open_truth, score_submission, scores_to_json
from sennet_kaggle.surface_dice import surface_dice

SHAPE = (5, 30, 41)


@pytest.fixture
def masks():
    """Label and prediction of two kidneys."""
    rng = np.random.default_rng(0)
    return {name: (rng.random(SHAPE) < 0.2, rng.random(SHAPE) < 0.2) for name in ("a_1", "b")}


@pytest.fixture
def labels_dir(tmp_path, masks):
    for name, (mask_gt, _) in masks.items():
        for z, mask in enumerate(mask_gt):
            write_tiff(tmp_path / "train" / name / "labels" / f"{z:04d}.tif", mask.astype(np.uint8) * 255)
    return tmp_path


def rows_of(masks, which):
    return [(f"{name}_{z:04d}", rle_encode(mask)) for name, pair in masks.items() for z, mask in enumerate(pair[which])]


def write_csv(path, rows, columns=""):
    path.write_text(
        "\n".join(["id,rle" + (",height,width" if columns else ""), *(f"{i},{r}{columns}" for i, r in rows)])
    )
    return path


@pytest.fixture
def submission_path(tmp_path, masks):
    return write_csv(tmp_path / "s.csv", rows_of(masks, 1))


def test_scores_are_those_of_the_stacks(submission_path, labels_dir, masks):
    scores = score_submission(submission_path, labels_dir)
    assert list(scores) == ["a_1", "b"]
    for name, (mask_gt, mask_pred) in masks.items():
        assert scores[name].surface_dice == surface_dice(mask_gt, mask_pred)
        assert scores[name].dice_pooled == dice_coefficient(mask_gt, mask_pred)
        per_slice = [dice_coefficient(*pair) for pair in zip(mask_gt, mask_pred, strict=True)]
        assert scores[name].dice_mean == pytest.approx(np.mean(per_slice), abs=1e-15)
        near = [surface_dice_at_tolerance(*pair) for pair in zip(mask_gt, mask_pred, strict=True)]
        assert scores[name].surface_dice_1px == pytest.approx(np.mean(near), abs=1e-15)
        assert scores[name].slices == 5 and scores[name].cl_dice is None
    assert mean_scores(scores).surface_dice == pytest.approx(
        (scores["a_1"].surface_dice + scores["b"].surface_dice) / 2
    )


def test_centerlines_on_demand(submission_path, labels_dir, masks):
    scores = score_submission(submission_path, labels_dir, centerlines=True)
    per_slice = [cl_dice(*pair) for pair in zip(*masks["b"], strict=True)]
    assert scores["b"].cl_dice == pytest.approx(np.mean(per_slice), abs=1e-15)
    assert "cl_dice" in format_scores(scores)
    assert mean_scores(scores).cl_dice == pytest.approx((scores["a_1"].cl_dice + scores["b"].cl_dice) / 2)


@pytest.mark.parametrize("where", ["competition folder", "folder of kidneys", "one kidney"])
def test_labels_may_be_named_at_any_level(tmp_path, labels_dir, masks, where):
    folder = {"competition folder": "", "folder of kidneys": "train", "one kidney": "train/b"}[where]
    path = write_csv(tmp_path / "s.csv", rows_of({"b": masks["b"]}, 1))
    assert list(score_submission(path, labels_dir / folder)) == ["b"]  # a_1 is in no row and left out


def test_two_submissions_against_each_other(tmp_path, submission_path, labels_dir, masks):
    expected = score_submission(submission_path, labels_dir)
    truth_path = write_csv(tmp_path / "t.csv", rows_of(masks, 0), columns=",30,41")
    assert score_submission(submission_path, truth_path) == expected
    bare_path = write_csv(tmp_path / "u.csv", rows_of(masks, 0))
    assert score_submission(submission_path, bare_path, (30, 41)) == expected
    with pytest.raises(InputError, match="give --size HEIGHT WIDTH"):
        score_submission(submission_path, bare_path)


def test_without_the_largest_object(tmp_path):
    """A large object found in full and a pixel missed: 2*4/(4+5) pooled, 0 without the large one."""
    mask_gt = np.zeros((6, 6), bool)
    mask_gt[1:3, 1:3] = True
    mask_pred = mask_gt.copy()
    mask_gt[5, 5] = True
    for name, mask in (("s", mask_pred), ("t", mask_gt)):
        write_csv(tmp_path / f"{name}.csv", [("k_0000", rle_encode(mask))])
    scores = score_submission(tmp_path / "s.csv", tmp_path / "t.csv", (6, 6))["k"]
    assert scores.dice_pooled == pytest.approx(8 / 9)
    assert scores.dice_without_largest == 0.0


@pytest.mark.parametrize(
    ("change", "problems"),
    [
        pytest.param(lambda rows: rows[:-1], ["b_0004: is missing"], id="missing"),
        pytest.param(lambda rows: [*rows, ("b_0009", "1 0")], ["b_0009: has no label"], id="extra"),
        pytest.param(lambda rows: [*rows, rows[0]], ["a_1_0000: comes twice"], id="repeated"),
        pytest.param(lambda rows: [("a_1_0000", "1 x"), *rows[1:]], ["a_1_0000: RLE must hold only"], id="letters"),
        pytest.param(
            lambda rows: [("a_1_0000", "1 1231"), *rows[1:-1], ("b_0004", "5 1 2")],
            ["a_1_0000: RLE out of range", "b_0004: RLE must hold pairs"],
            id="several",
        ),
    ],
)
def test_problems_are_named(tmp_path, labels_dir, masks, change, problems):
    path = write_csv(tmp_path / "s.csv", change(rows_of(masks, 1)))
    with pytest.raises(InputError, match=f"has {len(problems)} problem") as caught:
        score_submission(path, labels_dir)
    assert all(problem in str(caught.value) for problem in problems)


def test_labels_that_are_not_there(tmp_path, submission_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="has no labels: expected <kidney>/labels"):
        open_truth(tmp_path / "empty")
    with pytest.raises(InputError, match="cannot be read as a submission"):
        open_truth(tmp_path / "nothing.csv")


def test_command_line(submission_path, labels_dir, capsys):
    assert main(["score", "--submission", str(submission_path), "--labels", str(labels_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["kidney", "a_1", "b", "mean"]
    assert main(["score", "--submission", str(submission_path), "--labels", str(labels_dir), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["mean"]["slices"] == 10 and set(scores["kidneys"]) == {"a_1", "b"}


def test_table_and_json_say_the_same():
    scores = {"k": Scores(0.5, 0.75, 0.25, 0.125, 0.0625, 3)}
    assert format_scores(scores).splitlines()[1].split() == ["k", "0.5000", "0.7500", "0.2500", "0.1250", "0.0625", "3"]
    assert json.loads(scores_to_json(scores))["kidneys"]["k"]["dice_mean"] == 0.125
