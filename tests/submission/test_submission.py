import gzip
import io

import numpy as np
import pandas as pd
import pytest

from sennet_kaggle.data.volume import open_volumes
from sennet_kaggle.errors import InputError
from sennet_kaggle.submission.rle import rle_encode
from sennet_kaggle.submission.submission import (
    read_rows,
    read_submission,
    read_unique_rows,
    validate_submission,
    write_submission,
)

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
        pytest.param(["id,rle,x", *(f"{row},5" for row in GOOD[1:])], ["has the column(s) x besides"], id="a column"),
        pytest.param([",id,rle", *(f"5,{row}" for row in GOOD[1:])], ["has the column(s) without a name"], id="index"),
        pytest.param(["rle,id", "1 0,a_0000", "1 0,a_0001", "1 0,b_0003"], ["the columns are rle,id"], id="turned"),
        pytest.param(GOOD[:1], ["has no rows: expected 3"], id="no rows"),
        pytest.param([*GOOD, ","], ["a row without an id: is not a test slice"], id="no id"),
        pytest.param([*GOOD[:3], "b_0003,20 2"], ["b_0003: RLE out of range"], id="range"),
        pytest.param([*GOOD[:3], "b_0003,"], ["b_0003: RLE is empty"], id="empty field"),
        pytest.param(
            [GOOD[0], " a_0000,1 0", *GOOD[2:]],
            [" a_0000: is not a test slice: remove the spaces around the id", "a_0000: is missing"],
            id="space before an id",
        ),
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
        pytest.param(b"id,rle\na,1 0,3\n", "line 2: expected 2 fields, found 3$", id="long row"),
        pytest.param(b"id,rle\n0,a,1 0\n", "the first is the table's index: .*index=False", id="index without a name"),
        pytest.param(b"\n\n", "found '': the file is empty", id="blank lines alone"),
        pytest.param(b"a_0000,1 2 5 1\na_0001,1 0\n", "the header is missing: write id,rle", id="no header"),
        pytest.param(b"id, rle\na, 1 0\n", "found 'id, rle': spaces and capitals count", id="space in the header"),
        pytest.param(b"Id,RLE\na,1 0\n", "spaces and capitals count", id="capitals"),
        pytest.param(b"id;rle\na;1 0\n", "separated by semicolons: save the file with commas", id="semicolons"),
        pytest.param(b"id\trle\na\t1 0\n", "separated by tabs: save the file with commas", id="tabs"),
        pytest.param("id,rle\na,1 0\n".encode("utf-16"), "UTF-16 text: save it as UTF-8", id="UTF-16"),
        pytest.param("id,rle\na,1 0\n".encode("utf-16-be"), "UTF-16 text: save it", id="UTF-16 without a mark"),
        pytest.param(gzip.compress(b"id,rle\na,1 0\n"), "found gzip-compressed: unpack it", id="gzip"),
        pytest.param(b"PK\x03\x04rest", "a zip archive or an Excel workbook", id="zip"),
        pytest.param(b"II*\0\x08\0\0\0", "found binary data: name the csv itself", id="a TIFF"),
        pytest.param(b"version https://git-lfs.github.com/spec/v1\n", "run git lfs pull", id="git-lfs"),
        pytest.param(b"<!DOCTYPE html>", "a web page: download the file itself", id="web page"),
        pytest.param(
            b"id,rle\n\xff\xfe\n",
            "cannot be read as a submission: it is not UTF-8 text .byte 0xff.: save it",
            id="not text",
        ),
        pytest.param(b'id,rle\n"a,1 0\n', "cannot be read as a submission: .*quotation mark", id="open quote"),
    ],
)
def test_not_a_submission(tmp_path, content, message):
    path = tmp_path / "s.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(read_submission(path))


def test_missing_file(tmp_path):
    with pytest.raises(InputError, match="there is no .*s.csv: expected a csv with the columns id,rle"):
        list(read_submission(tmp_path / "s.csv"))


def test_more_columns_and_long_fields_are_read(tmp_path):
    mask = np.random.default_rng(0).random((600, 600)) < 0.5
    rle = rle_encode(mask)
    assert len(rle) > 2**17  # csv's default limit of a field
    path = tmp_path / "s.csv"
    path.write_text(f"id,height,rle\na_0000,600,{rle}\n")
    assert list(read_submission(path)) == [("a_0000", rle)]


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"\xef\xbb\xbfid,rle\na_0000,1 0\n", id="byte order mark"),
        pytest.param(b'\xef\xbb\xbf"id","rle"\n"a_0000","1 0"\n', id="byte order mark and quotes"),
        pytest.param(b"id,rle\r\na_0000,1 0\r\n", id="CRLF"),
        pytest.param(b"id,rle\ra_0000,1 0\r", id="CR"),
        pytest.param(b"\n\nid,rle\n\na_0000,1 0\n\na_0001,1 0\n\n\n", id="blank lines"),
        pytest.param(b"id,rle\na_0000,1 0\n   \n\t\n", id="lines of spaces"),
        pytest.param(b"id,rle\n a_0000 ,  1 0 \na_0001,1  2\n", id="spaces stay"),
        pytest.param(b'id,rle,x\n"a,0000",1 0,"two\nlines"\n', id="quoted comma and line"),
        pytest.param(b'id,rle\na"_0000,1 0\n', id="a quotation mark inside"),
    ],
)
def test_read_as_pandas_reads(tmp_path, content):
    path = tmp_path / "s.csv"
    path.write_bytes(content)
    expected = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False).to_dict("records")
    assert list(read_rows(path)) == expected and expected


def test_spaces_in_an_encoding_are_valid(tmp_path, volumes):
    path = tmp_path / "s.csv"
    path.write_text("id,rle\na_0000, 1 0 \na_0001,1   0\nb_0003,  2 3  9 1\n")
    assert validate_submission(path, volumes) == []


def test_the_order_of_rows_is_a_remark(tmp_path, volumes, caplog):
    path = tmp_path / "s.csv"
    path.write_text("\n".join([GOOD[0], *GOOD[:0:-1]]))
    assert validate_submission(path, volumes) == []
    assert "not in the order of the slices (row 1 is b_0003, in order a_0000)" in caplog.text


def test_masks_numbered_column_by_column_get_a_hint(tmp_path, write_kidney, caplog):
    write_kidney(tmp_path / "test" / "k", depth=2, size=(60, 90), labels=False)
    y, x = np.mgrid[:60, :90]
    masks = [(y - 20 - 9 * z) ** 2 + (x - 50) ** 2 < 150 for z in range(2)]
    for turned in (False, True):
        rows = [(f"k_{z:04d}", rle_encode(mask.T if turned else mask)) for z, mask in enumerate(masks)]
        write_submission(tmp_path / "s.csv", rows)
        assert validate_submission(tmp_path / "s.csv", open_volumes(tmp_path, "test")) == []
        assert ("would fit column by column" in caplog.text) == turned


@pytest.mark.parametrize("and_others", [False, True])
def test_a_field_that_a_spreadsheet_has_cut(tmp_path, write_kidney, and_others, caplog):
    """It ends after a length, so that it decodes; where another field is longer the file was not cut throughout."""
    write_kidney(tmp_path / "test" / "k", depth=2, size=(300, 300), labels=False)
    cut = " ".join(f"{start} 1" for start in range(10001, 14097))
    assert len(cut) == 32767 and len(cut.split()) % 2 == 0
    other = " ".join(f"{start} 1" for start in range(1, 20001, 2)) if and_others else "1 0"
    path = tmp_path / "s.csv"
    path.write_text(f"id,rle\nk_0000,{cut}\nk_0001,{other}\n")
    problems = validate_submission(path, open_volumes(tmp_path, "test"))
    said = "k_0000: has exactly 32767 characters, the most that a spreadsheet keeps in a cell: the mask was cut there"
    if and_others:
        assert problems == [] and "k_0000 has exactly 32767 characters" in caplog.text
        assert len(read_unique_rows(path)) == 2
    else:
        assert len(problems) == 1 and problems[0].startswith(said)
        with pytest.raises(InputError, match="k_0000: has exactly 32767 characters"):
            read_unique_rows(path)


def test_rows_that_are_scored_must_be_there_and_unique(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("id,rle\n\n")
    with pytest.raises(InputError, match="has no rows: expected one per slice"):
        read_unique_rows(path)
    path.write_text("id,rle\na_0000,1 0\na_0000,1 0\n")
    with pytest.raises(InputError, match="has 1 problem.*a_0000: comes twice"):
        read_unique_rows(path)
