import csv

import numpy as np
import pytest

from sennet_kaggle.errors import InputError
from sennet_kaggle.submission.rle import MaskCheck, rle_decode, rle_encode

# A drawing, its pixels numbered row by row from 1, and its encoding by hand.
DRAWINGS = [
    pytest.param(["....", "...."], "1 0", id="empty"),
    pytest.param(["####", "####"], "1 8", id="full"),
    pytest.param(["#...", "...."], "1 1", id="first pixel"),
    pytest.param(["....", "...#"], "8 1", id="last pixel"),
    pytest.param(["..##", "##.."], "3 4", id="run over the end of a row"),
    pytest.param([".#.#", "#.#."], "2 1 4 2 7 1", id="checkerboard"),
    pytest.param(["#", "#", ".", "#"], "1 2 4 1", id="one column"),
]


def mask_of(drawing: list[str]) -> np.ndarray:
    return np.array([[pixel == "#" for pixel in row] for row in drawing])


@pytest.mark.parametrize(("drawing", "rle"), DRAWINGS)
def test_encode_and_decode_a_drawing(drawing, rle):
    mask = mask_of(drawing)
    assert rle_encode(mask) == rle
    decoded = rle_decode(rle, *mask.shape)
    assert decoded.dtype == np.bool_
    np.testing.assert_array_equal(decoded, mask)


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (13, 1), (61, 95), (512, 511)])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 1.0])
def test_round_trip(size, share):
    mask = np.random.default_rng(0).random(size) < share
    np.testing.assert_array_equal(rle_decode(rle_encode(mask), *size), mask)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16])
def test_zero_one_arrays_and_views_encode_like_bool(dtype):
    mask = np.random.default_rng(1).random((30, 44)) < 0.3
    assert rle_encode(mask.astype(dtype)) == rle_encode(mask)
    assert rle_encode(mask.T) == rle_encode(mask.T.copy())


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.full((2, 2), 255, np.uint8), "only the integers 0 and 1"),
        (np.full((2, 2), -1), "only the integers 0 and 1"),
        (np.full((2, 2), 0.5), "only the integers 0 and 1"),
        (np.zeros(4, bool), r"shape \(H, W\)"),
    ],
)
def test_encode_rejects(mask, message):
    with pytest.raises(ValueError, match=message):
        rle_encode(mask)


@pytest.mark.parametrize(
    ("rle", "message"),
    [
        pytest.param("", "RLE is empty", id="nothing"),
        pytest.param("  ", "RLE is empty", id="blank"),
        pytest.param("1 2 3", "pairs of start and length, found 3", id="odd"),
        pytest.param("1 2 x 4", "only digits and spaces, found 'x'", id="letter"),
        pytest.param("1 2.5", "only digits and spaces, found '.'", id="fraction"),
        pytest.param("-1 2", "only digits and spaces, found '-'", id="negative"),
        pytest.param("1\t2", "only digits and spaces", id="tab"),
        pytest.param("١ 2", "only digits and spaces", id="other digits"),
        pytest.param("NaN", "RLE is empty .it says 'NaN'.: a mask without a vessel is written '1 0'", id="NaN"),
        pytest.param("12.0 3.0", "found '.': write whole numbers", id="decimal points"),
        pytest.param("12,3", "found ',': separate the numbers by spaces", id="commas"),
        pytest.param("[12, 3]", "without brackets", id="brackets"),
        pytest.param("0 2", "starts of at least 1, found 0: .* so add 1 to each start", id="pixel 0"),
        pytest.param("0 0", "starts of at least 1, found 0", id="the empty mask from 0"),
        pytest.param("2 8 9 12", "overlap: 2 8 is followed by 9 12: are these starts and ends", id="ends"),
        pytest.param("3 0", "at least 1", id="no length"),
        pytest.param("1 0 3 1", "at least 1", id="the empty mask and more"),
        pytest.param("1 3 3 2", "overlap: 1 3 is followed by 3 2", id="overlap"),
        pytest.param("7 1 2 1", "not in ascending order: 7 1 is followed by 2 1", id="unsorted"),
        pytest.param("20 2", "out of range.* ends at pixel 21, but 4x5 has 20", id="one beyond the end"),
        pytest.param("1 99999999999999999999", "out of range|at least 1", id="beyond 64 bits"),
        pytest.param("9223372036854775807 9223372036854775807", "out of range|at least 1", id="sum beyond 64 bits"),
        pytest.param("2 9223372036854775807 5 2", "overlap|out of range", id="wraps and goes on"),
    ],
)
def test_decode_rejects(rle, message):
    with pytest.raises(InputError, match=message):
        rle_decode(rle, 4, 5)


@pytest.mark.parametrize("rle", [" 1 0", "1 0 ", "1  0", "   1   0  "])
def test_spaces_round_the_empty_mask(rle):
    assert not rle_decode(rle, 4, 5).any()
    np.testing.assert_array_equal(rle_decode("  2  3   9 1 ", 4, 5), rle_decode("2 3 9 1", 4, 5))


@pytest.mark.parametrize("size", [(0, 5), (-4, 5), (-4, -5), (10**9, 10**9), (2**13, 2**13 + 1)])
def test_a_size_is_bounded_before_anything_is_made(size):
    with pytest.raises(InputError, match=f"at least 1 and at most 67108864 pixels, found {size[0]}x{size[1]}"):
        rle_decode("1 0", *size)


def test_column_check():
    """A disc, and the same numbered column by column; a square one tells nothing."""
    y, x = np.mgrid[:40, :60]
    disc = (y - 15) ** 2 + (x - 30) ** 2 < 100
    for mask, found in ((disc, False), (disc.T.reshape(40, 60), True), (disc[:, :40].T, False)):
        check = MaskCheck()
        check.add(mask)
        assert check.by_columns is found


def test_touching_runs_are_accepted():
    np.testing.assert_array_equal(rle_decode("1 2 3 1", 1, 4), [[True, True, True, False]])


@pytest.mark.parametrize("name", ["kidney_3_dense_a.csv", "kidney_3_dense_b.csv"])
def test_real_submission_round_trip(data_dir, name):
    """Decoding and encoding 501 real masks gives back their text."""
    csv.field_size_limit(2**31 - 1)
    with open(data_dir / "predictions" / name, newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 501
    for row in rows:
        assert rle_encode(rle_decode(row["rle"] or "1 0", 1706, 1510)) == (row["rle"] or "1 0"), row["id"]
