import dataclasses
import json

import numpy as np
import pytest
from conftest import REPOSITORY, write_tiff

from sennet_kaggle.__main__ import main
from sennet_kaggle.errors import InputError
from sennet_kaggle.scoring.metrics import _neighbourhood_codes, cl_dice, dice_coefficient, surface_dice_at_tolerance
from sennet_kaggle.scoring.score import (
    LEADERBOARD_SLICES,
    KidneyScorer,
    Scores,
    add_remark,
    format_scores,
    mean_scores,
    scores_to_json,
)
from sennet_kaggle.scoring.score_csv import score_submission
from sennet_kaggle.scoring.surface_dice import AREA_OF_CODE, surface_dice
from sennet_kaggle.scoring.truth import Truth, kidney_of, known_kidneys, open_truth, parse_sizes
from sennet_kaggle.submission.rle import rle_encode

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
    scores = score_submission(submission_path, labels_dir).kidneys
    assert list(scores) == ["a_1", "b"]
    for name, (mask_gt, mask_pred) in masks.items():
        assert scores[name].surface_dice == surface_dice(mask_gt, mask_pred)
        assert scores[name].dice_pooled == dice_coefficient(mask_gt, mask_pred)
        per_slice = [dice_coefficient(*pair) for pair in zip(mask_gt, mask_pred, strict=True)]
        assert scores[name].dice_mean == pytest.approx(np.mean(per_slice), abs=1e-15)
        near = [surface_dice_at_tolerance(*pair) for pair in zip(mask_gt, mask_pred, strict=True)]
        assert scores[name].surface_dice_2d_1px == pytest.approx(np.mean(near), abs=1e-15)
        assert scores[name].slices == 5 and scores[name].cl_dice is None
    assert mean_scores(scores).surface_dice == pytest.approx(
        (scores["a_1"].surface_dice + scores["b"].surface_dice) / 2
    )


def test_centerlines_on_demand(submission_path, labels_dir, masks):
    scores = score_submission(submission_path, labels_dir, centerlines=True).kidneys
    per_slice = [cl_dice(*pair) for pair in zip(*masks["b"], strict=True)]
    assert scores["b"].cl_dice == pytest.approx(np.mean(per_slice), abs=1e-15)
    assert "cl_dice" in format_scores(scores)
    assert mean_scores(scores).cl_dice == pytest.approx((scores["a_1"].cl_dice + scores["b"].cl_dice) / 2)


@pytest.mark.parametrize("where", ["competition folder", "folder of kidneys", "one kidney"])
def test_labels_may_be_named_at_any_level(tmp_path, labels_dir, masks, where):
    folder = {"competition folder": "", "folder of kidneys": "train", "one kidney": "train/b"}[where]
    path = write_csv(tmp_path / "s.csv", rows_of({"b": masks["b"]}, 1))
    assert list(score_submission(path, labels_dir / folder).kidneys) == ["b"]  # a_1 is in no row and left out


def test_two_submissions_against_each_other(tmp_path, submission_path, labels_dir, masks):
    expected = figures(score_submission(submission_path, labels_dir))
    truth_path = write_csv(tmp_path / "t.csv", rows_of(masks, 0), columns=",30,41")
    assert figures(score_submission(submission_path, truth_path)) == expected
    bare_path = write_csv(tmp_path / "u.csv", rows_of(masks, 0))
    assert figures(score_submission(submission_path, bare_path, ("a_1=30x41", "b=30x41"))) == expected
    sized_path = write_csv(tmp_path / "v.csv", rows_of(masks, 1), columns=",30,41")  # either csv may say it
    assert figures(score_submission(sized_path, bare_path)) == expected
    with pytest.raises(InputError, match="u.csv does not say how large the masks of b are: give --size b=HEIGHTxWIDTH"):
        score_submission(submission_path, bare_path, ("a_1=30x41",))


def figures(scored):
    """Without the remarks, which tell labels and submissions apart."""
    return [dataclasses.replace(scores, remark=None) for scores in scored.kidneys.values()]


def test_without_the_largest_object(tmp_path):
    """A large object found in full and a pixel missed: 2*4/(4+5) pooled, 0 without the large one."""
    mask_gt = np.zeros((6, 6), bool)
    mask_gt[1:3, 1:3] = True
    mask_pred = mask_gt.copy()
    mask_gt[5, 5] = True
    for name, mask in (("s", mask_pred), ("t", mask_gt)):
        write_csv(tmp_path / f"{name}.csv", [("k_0000", rle_encode(mask))])
    scores = score_submission(tmp_path / "s.csv", tmp_path / "t.csv", ("6x6",)).kidneys["k"]
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
        open_truth(tmp_path / "empty", ["a_1"])
    with pytest.raises(InputError, match="there is no .*nothing.csv: expected a csv"):
        open_truth(tmp_path / "nothing.csv", ["a_1"])


def test_command_line(submission_path, labels_dir, capsys):
    assert main(["score", "--submission", str(submission_path), "--labels", str(labels_dir)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["kidney", "a_1", "b", "mean", "a_1:", "b:"]
    assert all("surface_dice cannot be compared with the leaderboard: a stack of 5" in line for line in lines[4:])
    assert main(["score", "--submission", str(submission_path), "--labels", str(labels_dir), "--json"]) == 0
    scores = json.loads(capsys.readouterr().out)
    assert scores["mean"]["slices"] == 10 and set(scores["kidneys"]) == {"a_1", "b"}


def test_table_and_json_say_the_same():
    scores = {"k": Scores(0.5, 0.75, 0.25, 0.125, 0.0625, 3)}
    assert format_scores(scores).splitlines()[1].split() == [
        "k",
        "0.5000",
        "0.7500",
        "0.2500",
        "0.1250",
        "0.0625",
        "3",
        "1",
    ]
    assert json.loads(scores_to_json(scores))["kidneys"]["k"]["dice_mean"] == 0.125


# --- what lies between slices


def write_stack(folder, masks, zs, name="a_1"):
    """Labels and a submission of the slices `zs`, numbered so."""
    for z in zs:
        write_tiff(folder / "train" / name / "labels" / f"{z:04d}.tif", masks["a_1"][0][z].astype(np.uint8) * 255)
    rows = [(f"{name}_{z:04d}", rle_encode(masks["a_1"][1][z])) for z in zs]
    return write_csv(folder / "stack.csv", rows)


def test_slices_far_apart_have_no_surface_dice(tmp_path, masks, capsys):
    """Stacked they would make an area score that looks like a leaderboard's."""
    path = write_stack(tmp_path, masks, [0, 2, 4])
    scores = score_submission(path, tmp_path).kidneys["a_1"]
    assert scores.surface_dice is None and (scores.slices, scores.runs) == (3, 3)
    mask_gt, mask_pred = (stack[::2] for stack in masks["a_1"])
    assert scores.dice_pooled == dice_coefficient(mask_gt, mask_pred)
    assert main(["score", "--submission", str(path), "--labels", str(tmp_path)]) == 0
    table = capsys.readouterr().out
    assert [row.split()[1] for row in table.splitlines()[:3]] == ["surface_dice", "-", "-"]
    assert "a_1: surface_dice cannot be compared with the leaderboard: no two of the 3 scored slices are" in table
    assert main(["score", "--submission", str(path), "--labels", str(tmp_path), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    for row in (found["kidneys"]["a_1"], found["mean"]):
        assert row["surface_dice"] is None and row["comparable_with_leaderboard"] is False
        assert row["remark"].startswith("cannot be compared with the leaderboard")


def test_of_several_runs_the_inside_is_scored(tmp_path, masks):
    """Expected: the corners between neighbouring slices, nothing above, below or between the runs."""
    path = write_stack(tmp_path, masks, [0, 1, 3, 4])
    scores = score_submission(path, tmp_path).kidneys["a_1"]
    areas = np.zeros(2)
    for begin in (0, 3):
        codes = [
            _neighbourhood_codes(np.pad(stack[begin : begin + 2], ((0, 0), (1, 1), (1, 1)))) for stack in masks["a_1"]
        ]
        size_gt, size_pred = (AREA_OF_CODE[code] for code in codes)
        common = (size_gt > 0) & (size_pred > 0)
        areas += ((size_gt + size_pred)[common].sum(), (size_gt + size_pred).sum())
    assert scores.surface_dice == pytest.approx(areas[0] / areas[1], abs=1e-12)
    assert scores.runs == 2 and "4 slices in 2 runs" in scores.remark


def test_a_run_adds_what_it_adds_in_the_whole_kidney():
    """Layers of one kidney, scored as two runs, and the layer between them: together the kidney without its ends."""
    rng = np.random.default_rng(2)
    mask_gt, mask_pred = rng.random((2, 6, 9, 70)) < 0.3
    whole, apart = KidneyScorer(), KidneyScorer()
    for z in range(6):
        whole.update(mask_gt[z], mask_pred[z])
        apart.update(mask_gt[z], mask_pred[z], begins_run=z == 3)
    between = KidneyScorer()
    for z in (2, 3):
        between.update(mask_gt[z], mask_pred[z])
    assert (apart._surface.inner_counts + between._surface.inner_counts == whole._surface.inner_counts).all()
    assert whole.compute().surface_dice == surface_dice(mask_gt, mask_pred)
    assert apart.compute().runs == 2


def test_one_kidney_without_a_surface_leaves_the_mean_without():
    scores = {"a": Scores(0.5, 0.5, 0.5, 0.5, 0.5, 3), "b": Scores(None, 0.25, 0.25, 0.25, 0.25, 2, 2)}
    mean = mean_scores(scores)
    assert mean.surface_dice is None and mean.dice_mean == 0.375 and (mean.slices, mean.runs) == (5, 3)


def test_what_can_be_compared_with_the_leaderboard():
    def remark(slices, runs=1, left_out=0, label_kidney="k", **truth):
        scores = Scores(0.5, 0.5, 0.5, 0.5, 0.5, slices, runs)
        return add_remark(scores, "k", Truth({}, {"k": label_kidney}, {}, **truth), left_out).remark

    assert remark(LEADERBOARD_SLICES) is None
    assert "a stack of 500" in remark(500)
    assert "600 slices in 2 runs" in remark(600, runs=2)
    assert "3 slices without a label are left out" in remark(600, left_out=3)
    assert "the labels are those of k_dense" in remark(600, label_kidney="k_dense")
    assert "taken for the truth" in remark(600, is_submission=True)


def test_rows_are_stacked_by_their_numbers(tmp_path):
    """k_10 comes after k_9, whatever the order of either file."""
    rng = np.random.default_rng(1)
    mask_gt, mask_pred = rng.random((2, 12, 9, 11)) < 0.3
    for name, stack, order in (("s", mask_pred, sorted(range(12), key=str)), ("t", mask_gt, range(11, -1, -1))):
        write_csv(tmp_path / f"{name}.csv", [(f"k_{z}", rle_encode(stack[z])) for z in order])
    scores = score_submission(tmp_path / "s.csv", tmp_path / "t.csv", ("9x11",)).kidneys["k"]
    assert scores.surface_dice == surface_dice(mask_gt, mask_pred) and scores.runs == 1


def test_slices_whose_names_hold_an_underscore(tmp_path, masks, caplog):
    """Folders tell where a kidney's name ends; a csv alone does not, and of those two scores are printed."""
    stems = ("x_0000", "y_0000", "y_0001")
    for name, (mask_gt, _) in masks.items():
        for stem, mask in zip(stems, mask_gt, strict=False):
            for kind in ("images", "labels"):
                write_tiff(tmp_path / "data" / "train" / f"{name}_dense" / kind / f"{stem}.tif", mask.astype(np.uint8))
    rows = {
        kidney: [
            (f"{name}_{kidney}_{stem}", rle_encode(mask))
            for name, pair in masks.items()
            for stem, mask in zip(stems, pair[1], strict=False)
        ]
        for kidney in ("dense", "sparse")
    }
    submission_path, truth_path = (
        write_csv(tmp_path / "s.csv", rows["dense"]),
        write_csv(tmp_path / "t.csv", rows["sparse"]),
    )
    by_folder = score_submission(submission_path, tmp_path / "data").kidneys
    assert [(name, each.slices, each.runs) for name, each in by_folder.items()] == [
        ("a_1_dense", 3, 2),
        ("b_dense", 3, 2),
    ]
    by_images = score_submission(submission_path, truth_path, data_dir=tmp_path / "data").kidneys
    assert [(name, each.slices, each.dice_pooled) for name, each in by_images.items()] == [
        ("a_1_dense", 3, 1),
        ("b_dense", 3, 1),
    ]
    assert (
        score_submission(truth_path, tmp_path / "data").kidneys["a_1_sparse"].dice_mean
        == by_folder["a_1_dense"].dice_mean
    )
    by_names = score_submission(
        submission_path, submission_path, size=[f"{kidney}_dense_{z}=30x41" for kidney in masks for z in "xy"]
    )
    assert list(by_names.kidneys) == ["a_1_dense_x", "a_1_dense_y", "b_dense_x", "b_dense_y"]


def test_another_kidney_that_begins_like_a_known_one(labels_dir):
    known = known_kidneys(labels_dir, labels_dir)
    assert kidney_of("a_1_voi_0000", known) == "a_1_voi" and kidney_of("a_1_0007", known) == "a_1"


def test_a_row_per_slice(submission_path, labels_dir, masks, capsys):
    assert main(["score", "--submission", str(submission_path), "--labels", str(labels_dir), "--per-slice"]) == 0
    lines = capsys.readouterr().out.splitlines()
    mask_gt, mask_pred = (stack[4] for stack in masks["b"])
    counts = [str(np.count_nonzero(mask)) for mask in (mask_gt, mask_pred, mask_gt & mask_pred)]
    near, dice = surface_dice_at_tolerance(mask_gt, mask_pred), dice_coefficient(mask_gt, mask_pred)
    assert lines[10].split() == ["b_0004", f"{near:.4f}", f"{dice:.4f}", *counts]


# --- labelled slices alone, sparse and dense


@pytest.mark.parametrize(
    ("rows_name", "rows", "labels_name", "labels", "left_out"),
    [
        pytest.param("k", range(5), "k", [1, 2, 3], 2, id="labels for a part"),
        pytest.param("k_sparse", range(5), "k_dense", [1, 2, 3], 2, id="a sparse kidney by its dense labels"),
        pytest.param("k_dense", [1, 2, 3], "k_sparse", range(5), 0, id="a dense kidney by its sparse labels"),
        pytest.param("k_dense", [1, 2, 3], "k_dense", [1, 2, 3], 0, id="its own"),
    ],
)
def test_labelled_only(tmp_path, masks, rows_name, rows, labels_name, labels, left_out):
    """In each case slices 1 to 3 are scored, and their scores are those of that stack."""
    for z in labels:
        mask = masks["a_1"][0][z].astype(np.uint8) * 255
        write_tiff(tmp_path / "train" / labels_name / "labels" / f"{z:04d}.tif", mask)
    path = write_csv(tmp_path / "s.csv", [(f"{rows_name}_{z:04d}", rle_encode(masks["a_1"][1][z])) for z in rows])
    scores = score_submission(path, tmp_path, labelled_only=True).kidneys
    assert list(scores) == [rows_name]
    assert scores[rows_name].surface_dice == surface_dice(*(stack[1:4] for stack in masks["a_1"]))
    assert (f"{left_out} slices without a label are left out" in scores[rows_name].remark) == bool(left_out)
    assert (f"the labels are those of {labels_name}" in scores[rows_name].remark) == (rows_name != labels_name)
    if left_out:
        message = rf"has {left_out} problem.*{rows_name}_0000: has no label.*--labelled-only leaves out slices without"
        with pytest.raises(InputError, match=message):
            score_submission(path, tmp_path)


def test_no_label_counts_for_two_kidneys(tmp_path, masks, caplog):
    """kidney_3_dense has labels, and kidney_3_sparse is another kidney of the same submission."""
    write_tiff(tmp_path / "k_dense" / "labels" / "0001.tif", masks["a_1"][0][1].astype(np.uint8))
    rows = [(f"{name}_0001", rle_encode(masks["a_1"][1][1])) for name in ("k_dense", "k_sparse")]
    path = write_csv(tmp_path / "s.csv", rows)
    with pytest.raises(InputError, match="k_sparse: has no label for any of its 1 rows"):
        score_submission(path, tmp_path)
    assert list(score_submission(path, tmp_path, labelled_only=True).kidneys) == ["k_dense"]
    assert "k_sparse has no label; its 1 rows are not scored" in caplog.text


def test_missing_rows_are_refused_with_labelled_only_too(tmp_path, labels_dir, masks):
    path = write_csv(tmp_path / "s.csv", [*rows_of(masks, 1)[:-1], ("b_0900", "1 0")])
    with pytest.raises(InputError, match="has 1 problem.*b_0004: is missing$"):  # it need not be advised
        score_submission(path, labels_dir, labelled_only=True)


# --- sizes


def test_kidneys_of_two_sizes(tmp_path, write_kidney):
    """One size for both used to give other scores, without a word."""
    sizes = {"a": (30, 41), "b": (20, 51)}
    rng = np.random.default_rng(3)
    masks = {name: tuple(rng.random((2, 2, *size)) < 0.3) for name, size in sizes.items()}
    submission_path = write_csv(tmp_path / "s.csv", rows_of(masks, 1))
    truth_path = write_csv(tmp_path / "t.csv", rows_of(masks, 0))
    expected = [surface_dice(*masks[name]) for name in sizes]
    for name, size in sizes.items():
        write_kidney(tmp_path / "test" / name, depth=2, size=size, labels=False)
    for options in ({"size": ("a=30x41", "b=20x51")}, {"data_dir": tmp_path}):
        scores = score_submission(submission_path, truth_path, **options).kidneys
        assert [row.surface_dice for row in scores.values()] == expected
    with pytest.raises(InputError, match=r"one --size 30x41 does not do for 2 kidneys \(a, b\)"):
        score_submission(submission_path, truth_path, ("30x41",))


@pytest.mark.parametrize(
    ("texts", "sizes"),
    [
        ([], {}),
        (["k=30x41"], {"k": (30, 41)}),
        (["k=30 X 41 "], {"k": (30, 41)}),
        (["30x41"], {"k": (30, 41)}),
        (["30", "41"], {"k": (30, 41)}),
        (["k=30x41", "30x41"], {"k": (30, 41)}),
    ],
)
def test_sizes(texts, sizes):
    assert parse_sizes(texts, ["k"]) == sizes


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["k=-30x41"], "--size k=-30x41: expected HEIGHTxWIDTH in whole numbers, such as 1303x912, found '-30x41'"),
        (["-30", "41"], "--size -30x41: expected HEIGHTxWIDTH in whole numbers"),
        (["0x41"], "at least 1 and at most 67108864 pixels, found 0x41"),
        (["1000000000x1000000000"], "at most 67108864 pixels, found 1000000000x1000000000"),
        (["8192x8193"], "at most 67108864 pixels, found 8192x8193"),
        (["9" * 5000 + "x1"], "expected HEIGHTxWIDTH"),
        (["30"], "expected HEIGHTxWIDTH in whole numbers, such as 1303x912, found '30'"),
        (["30", "41", "2"], "expected HEIGHTxWIDTH"),
        (["k="], "expected HEIGHTxWIDTH"),
        (["j=30x41"], "is of none of the kidneys: expected one of k"),
        (["k=30x41", "k=41x30"], "masks of k must be of one size, but they are 30x41 by --size k=30x41 and 41x30 by"),
    ],
)
def test_sizes_that_are_none(texts, message):
    with pytest.raises(InputError) as caught:
        parse_sizes(texts, ["k"])
    assert message in str(caught.value) and len(str(caught.value)) < 400


def test_sizes_that_contradict_each_other(tmp_path, labels_dir, masks, submission_path):
    """Columns, option and label must agree, in either csv."""
    truth_path = write_csv(tmp_path / "t.csv", rows_of(masks, 0), columns=",30,41")
    with pytest.raises(
        InputError, match="masks of b must be of one size, but they are 41x30 by --size and 30x41 by .*t"
    ):
        score_submission(submission_path, truth_path, ("b=41x30",))
    with pytest.raises(InputError, match="the label of b_0000 is 30x41, but the masks of its kidney are 41x30"):
        score_submission(submission_path, labels_dir, ("b=41x30",))
    turned_path = write_csv(tmp_path / "u.csv", rows_of(masks, 1), columns=",41,30")
    with pytest.raises(
        InputError, match="masks of a_1 must be of one size, but they are 41x30 by .*u.csv.* 30x41 by .*t"
    ):
        score_submission(turned_path, truth_path)
    with pytest.raises(InputError, match="the label of a_1_0000 is 30x41"):
        score_submission(turned_path, labels_dir)


@pytest.mark.parametrize(
    ("size", "change", "hint"),
    [
        pytest.param((60, 90), lambda mask: mask, None, id="as it should be"),
        pytest.param((60, 90), lambda mask: np.roll(mask, -1), "if they began one pixel later", id="counted from 0"),
        pytest.param((60, 90), lambda mask: np.roll(mask, 1), None, id="a pixel too far is no such fault"),
        pytest.param((60, 90), lambda mask: mask.T, "would fit column by column", id="by columns"),
        pytest.param(
            (70, 70), lambda mask: mask.T, "if pixels were numbered column by column", id="by columns, square"
        ),
    ],
)
def test_masks_numbered_in_another_way_get_a_hint(tmp_path, caplog, size, change, hint):
    y, x = np.mgrid[: size[0], : size[1]]
    mask = sum((y - a) ** 2 + (x - b) ** 2 < 30 for a, b in ((10, 50), (24, 44), (50, 20), (30, 8))) > 0
    write_csv(tmp_path / "t.csv", [("k_0000", rle_encode(mask))])
    write_csv(tmp_path / "s.csv", [("k_0000", rle_encode(change(mask)))])
    score_submission(tmp_path / "s.csv", tmp_path / "t.csv", ("x".join(map(str, size)),))
    assert caplog.text.count("WARNING") == (hint is not None)
    assert hint is None or hint in caplog.text


def test_help_and_docs_define_every_column(capsys):
    with pytest.raises(SystemExit):
        main(["score", "--help"])
    said = capsys.readouterr().out
    page = (REPOSITORY / "docs" / "metrics.md").read_text()
    for field in dataclasses.fields(Scores):
        if field.name != "remark":
            assert f"{field.name}:" in said or f"{field.name}," in said
            assert f"`{field.name}`" in page
