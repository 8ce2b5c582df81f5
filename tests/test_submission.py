import numpy as np
import pytest

from sennet_kaggle.errors import InputError
from sennet_kaggle.rle import rle_encode
from sennet_kaggle.submission import read_submission, validate_submission, write_submission
from sennet_kaggle.volume import open_volumes

GOOD = ["id,rle", "a_0000,1 0", "a_0001,1 2 5 1", "b_0003,20 1"]


@pytest.fixture
def volumes(tmp_path, write_kidney):
    write_kidney(tmp_path / "test" / "a", depth=2, size=(4, 5), labels=False)
    write_kidney(tmp_path / "test" / "b", depth=1, size=(4, 5), labels=False, first=3)
    return open_volumes(tmp_path, "test")


def test_written_bytes(tmp_path):
    path = tmp_path / "submission.csv"
    assert write_submission(path, [("a_0000", "1 0"), ("a_0001", "1 2 5 1")]) == 2
    assert path.read_bytes() == b"id,rle\na_0000,1 0\na_0001,1 2 5 1\n"
    assert list(read_submission(path)) == [("a_0000", "1 0"), ("a_0001", "1 2 5 1")]


def test_rows_stream(tmp_path):
    """A row is on its way to disk before the next is made."""
    path = tmp_path / "submission.csv"

    def rows():
        yield "a_0000", "1 0"
        assert not path.exists()
        assert len(list(tmp_path.iterdir())) == 1
        yield "a_0001", "1 0"

    write_submission(path, rows())
    assert [p.name for p in tmp_path.iterdir()] == ["submission.csv"]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "submission.csv"
    path.write_text("before")

    def rows():
        yield "a_0000", "1 0"
        raise InputError("slice 1 is truncated")

    with pytest.raises(InputError, match="slice 1"):
        write_submission(path, rows())
    assert [p.name for p in tmp_path.iterdir()] == ["submission.csv"]
    assert path.read_text() == "before"


def test_write_errors(tmp_path):
    with pytest.raises(InputError, match="there is no folder"):
        write_submission(tmp_path / "nowhere" / "submission.csv", [])
    with pytest.raises(InputError, match="a_0000 comes twice"):
        write_submission(tmp_path / "submission.csv", [("a_0000", "1 0"), ("a_0000", "1 0")])


def test_valid(tmp_path, volumes):
    path = tmp_path / "s.csv"
    path.write_text("\n".join(GOOD))
    assert validate_submission(path, volumes) == []


@pytest.mark.parametrize(
    ("rows", "problems"),
    [
        pytest.param(GOOD[:3], ["b_0003: is missing"], id="missing"),
        pytest.param([*GOOD, "b_0004,1 0"], ["b_0004: is not a test slice"], id="extra"),
        pytest.param([*GOOD, "a_0001,1 0"], ["a_0001: comes twice"], id="repeated"),
        pytest.param([GOOD[0], GOOD[2], GOOD[1], GOOD[3]], ["a_0001: stands where a_0000 was expected"], id="order"),
        pytest.param([*GOOD[:3], "b_0003,20 2"], ["b_0003: RLE out of range"], id="range"),
        pytest.param([*GOOD[:3], "b_0003,"], ["b_0003: RLE is empty"], id="empty field"),
        pytest.param([GOOD[0], "x,1 0"], ["x: is not", "a_0000: is", "a_0001: is", "b_0003: is"], id="several"),
    ],
)
def test_problems_are_named(tmp_path, volumes, rows, problems):
    path = tmp_path / "s.csv"
    path.write_text("\n".join(rows))
    found = validate_submission(path, volumes)
    assert len(found) == len(problems)
    for line, start in zip(found, problems, strict=True):
        assert line.startswith(start)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "expected the columns id,rle, found ''", id="empty"),
        pytest.param(b"id,mask\n", "expected the columns id,rle, found 'id,mask'", id="columns"),
        pytest.param(b"id,rle,rle\n", "expected the columns id,rle, found 'id,rle,rle'", id="column twice"),
        pytest.param(b"id,rle\na_0000\n", "line 2: expected 2 fields, found 1", id="short row"),
        pytest.param(b"id,rle\na,1 0,3\n", "line 2: expected 2 fields, found 3", id="long row"),
        pytest.param(b"id,rle\n\xff\xfe\n", "cannot be read as a submission", id="not text"),
        pytest.param(b'id,rle\n"a,1 0\n', "cannot be read as a submission", id="open quote"),
    ],
)
def test_not_a_submission(tmp_path, content, message):
    path = tmp_path / "s.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_submission(path))


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        list(read_submission(tmp_path / "s.csv"))


def test_more_columns_and_long_fields_are_read(tmp_path):
    mask = np.random.default_rng(0).random((600, 600)) < 0.5
    rle = rle_encode(mask)
    assert len(rle) > 2**17  # csv's default limit of a field
    path = tmp_path / "s.csv"
    path.write_text(f"id,height,rle\na_0000,600,{rle}\n")
    assert list(read_submission(path)) == [("a_0000", rle)]
