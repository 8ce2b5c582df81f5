"""Submissions and scores."""

import gzip
import shutil

import numpy as np
from conftest import write_tiff

from sennet_kaggle.submission.rle import rle_encode

from . import Case

VALIDATE = "validate --submission s.csv --data-dir data"
SCORE = "score --submission s.csv --labels data/train"
AGAINST_CSV = "score --submission s.csv --labels t.csv"
EMPTY = [f"kidney_5_{z:04d},1 0" for z in range(3)]
SCORED = [f"kidney_1_{z:04d},100 3 131 3" for z in range(3)]
CUT = " ".join(f"{start} 1" for start in range(10001, 14097))  # 32,767 characters, pairs to the end


def _write(rows, header="id,rle", name="s.csv", encoding="utf-8", end="\n"):
    return lambda folder: (folder / name).write_bytes(end.join([header, *rows, ""]).encode(encoding))


def _all(*prepares):
    return lambda folder: [prepare(folder) for prepare in prepares]


def _first(rle, rows=EMPTY):
    """The rows with another encoding in the first."""
    return _write([f"{rows[0].split(',')[0]},{rle}", *rows[1:]])


def _two_csv(columns="", of="", also=()):
    """A submission and a csv as truth, of kidney_1 and of the kidneys `also`."""
    rows = SCORED + [row.replace("kidney_1", kidney) for kidney in also for row in SCORED]
    sized = [f"{row}{of}" for row in rows]
    return _all(_write(rows), _write(sized, f"id,rle{columns}", "t.csv"))


def _label(kidney, z, shape=(40, 31)):
    return lambda folder: write_tiff(folder / f"data/train/{kidney}/labels/{z:04d}.tif", np.ones(shape, np.uint8))


def _drop_middle(folder):
    (folder / "data/train/kidney_1/labels/0001.tif").unlink()
    (folder / "data/train/kidney_1/images/0001.tif").unlink()
    _write([SCORED[0], SCORED[2]])(folder)


def _renamed(kidney):
    return lambda folder: shutil.move(folder / "data/train/kidney_1", folder / "data/train" / kidney)


def _underscored(folder):
    """0000.tif of kidney_1 becomes a_0000.tif, 0001.tif b_0001.tif …"""
    stems = ["a_0000", "b_0001", "b_0002"]
    for path in sorted(folder.glob("data/train/kidney_1/*/*.tif")):
        path.rename(path.with_name(f"{stems[int(path.stem)]}.tif"))
    _write([f"kidney_1_{stem},100 3 131 3" for stem in stems])(folder)


def _linked(folder):
    """The scans lie elsewhere, under another name."""
    shutil.move(folder / "data/train/kidney_1", folder / "scan")
    (folder / "data/train/kidney_1").symlink_to(folder / "scan")


def _rows_of(kidney):
    return _write([row.replace("kidney_1", kidney) for row in SCORED])


def _gzipped(folder):
    (folder / "s.csv").write_bytes(gzip.compress("\n".join(["id,rle", *EMPTY]).encode()))


def _column_major(folder):
    """A square of 12 pixels in each slice, numbered column by column (a column has 40)."""
    rle = " ".join(f"{40 * x + 6} 12" for x in range(3, 15))
    _write([f"{row.split(',')[0]},{rle}" for row in EMPTY])(folder)


def _counted_from_0(folder):
    """The same disc in label and prediction, whose runs begin a pixel too early."""
    y, x = np.mgrid[:40, :31]
    disc = (y - 20) ** 2 + (x - 15) ** 2 < 81
    for z in range(3):
        write_tiff(folder / f"data/train/kidney_1/labels/{z:04d}.tif", disc.astype(np.uint8))
    _write([f"kidney_1_{z:04d},{rle_encode(np.roll(disc, -1))}" for z in range(3)])(folder)


TITLE = "Submissions and scores"
CASES: list[Case] = [
    # --- how a csv is read
    Case(
        "a byte order mark, CRLF, blank lines, spaces round 1 0",
        VALIDATE,
        "s.csv: valid, 3 rows",
        _write([*EMPTY[:2], "", "kidney_5_0002,  1  0 ", "  ", ""], encoding="utf-8-sig", end="\r\n"),
        refused=False,
    ),
    Case(
        "rows in another order",
        VALIDATE,
        ("not in the order of the slices (row 1 is kidney_5_0002, in order kidney_5_0000)", "valid, 3 rows"),
        _write(EMPTY[::-1]),
        refused=False,
    ),
    Case(
        "masks numbered column by column",
        VALIDATE,
        ("the masks would fit column by column", "valid, 3 rows"),
        _column_major,
        refused=False,
    ),
    Case(
        "inverted masks",
        VALIDATE,
        ("the masks mark 98% of all pixels as vessel: if they are inverted, encode the vessels", "valid, 3 rows"),
        _write([row.replace("1 0", "1 600 621 620") for row in EMPTY]),
        refused=False,
    ),
    Case("a column that comes twice", VALIDATE, "'id,rle,id': id comes twice", _write([], "id,rle,id")),
    Case(
        "more columns than id,rle",
        VALIDATE,
        "has the column(s) height, width besides id,rle: expected exactly id,rle",
        _write([f"{row},40,31" for row in EMPTY], "id,rle,height,width"),
    ),
    Case(
        "the index of a pandas table",
        VALIDATE,
        "it is the table's index: write the csv with to_csv(path, index=False)",
        _write([f"{z},{row}" for z, row in enumerate(EMPTY)], ",id,rle"),
    ),
    Case(
        "columns in another order",
        VALIDATE,
        "the columns are rle,id: expected id,rle in this order",
        _write([",".join(row.split(",")[::-1]) for row in EMPTY], "rle,id"),
    ),
    Case("no header", VALIDATE, "the header is missing: write id,rle as the first line", _write(EMPTY[1:], EMPTY[0])),
    Case("a header and no rows", VALIDATE, "has no rows: expected 3 below", _write([])),
    Case("an empty file", VALIDATE, "the file is empty", lambda folder: (folder / "s.csv").write_bytes(b"")),
    Case(
        "semicolons",
        VALIDATE,
        "the fields are separated by semicolons: save the file with commas",
        _write([row.replace(",", ";") for row in EMPTY], "id;rle"),
    ),
    Case(
        "tabs",
        VALIDATE,
        "the fields are separated by tabs: save the file with commas",
        _write([row.replace(",", "\t") for row in EMPTY], "id\trle"),
    ),
    Case("UTF-16", VALIDATE, "found UTF-16 text: save it as UTF-8", _write(EMPTY, encoding="utf-16")),
    Case("gzip under the name .csv", VALIDATE, "found gzip-compressed: unpack it first", _gzipped),
    Case("Latin-1", VALIDATE, "not UTF-8 text (byte 0xe9): save it as UTF-8", _write(["é,1 0"], encoding="latin-1")),
    Case(
        "a space in the header",
        VALIDATE,
        "found 'id, rle': spaces and capitals count: write id,rle",
        _write(EMPTY, "id, rle"),
    ),
    Case(
        "a space before an id",
        VALIDATE,
        " kidney_5_0000: is not a test slice: remove the spaces around the id",
        _write([f" {EMPTY[0]}", *EMPTY[1:]]),
    ),
    # --- masks
    Case("an empty mask as NaN", VALIDATE, "RLE is empty (it says 'NaN'): a mask without", _first("NaN")),
    Case(
        "pixels counted from 0", VALIDATE, "found 0: pixels are counted from 1, so add 1 to each start", _first("0 5")
    ),
    Case("decimal points", VALIDATE, "found '.': write whole numbers", _first("12.0 3.0")),
    Case("starts and ends", VALIDATE, "are these starts and ends? Lengths are expected", _first("12 15 14 20")),
    Case("an empty run among others", VALIDATE, "found 1 0: leave out empty runs", _first("1 0 5 2")),
    Case("a number beyond 64 bits", VALIDATE, "RLE out of range: no slice has more than", _first(f"{10**30} 3")),
    Case(
        "a field that a spreadsheet has cut",
        VALIDATE,
        "has exactly 32767 characters, the most that a spreadsheet keeps in a cell: the mask was cut there",
        _first(CUT),
    ),
    # --- what is scored
    Case(
        "inverted masks, to score",
        SCORE,
        "the masks mark 98% of all pixels as vessel",
        _write([f"kidney_1_{z:04d},1 600 621 620" for z in range(3)]),
        refused=False,
    ),
    Case(
        "labels behind a link of the kidney's name",
        SCORE,
        "\nkidney_1: surface_dice",
        _all(_write(SCORED), _linked),
        refused=False,
    ),
    Case(
        "an id without a kidney",
        SCORE,
        "an id without a kidney: has no label for any of its 1 rows",
        _write([*SCORED, "0000,1 0"]),
    ),
    Case(
        "two slices that are far apart",
        SCORE,
        "kidney_1: surface_dice cannot be compared with the leaderboard: no two of the 2 scored slices are neighbours",
        _drop_middle,
        refused=False,
    ),
    Case("a header and no rows, to score", SCORE, "s.csv has no rows: expected one per slice", _write([])),
    Case(
        "a header and no rows, as truth",
        AGAINST_CSV,
        "t.csv has no rows: expected one per slice",
        _all(_write(SCORED), _write([], name="t.csv")),
    ),
    Case("no labels of any kidney", SCORE, "has no label of kidney_5: expected labels of the same", _write(EMPTY)),
    Case(
        "labels for a part of the rows",
        SCORE,
        ("kidney_1_0007: has no label", "--labelled-only leaves out slices without a label"),
        _write([*SCORED, "kidney_1_0007,1 0"]),
    ),
    Case(
        "labels for a part of the rows, and a kidney without any",
        f"{SCORE} --labelled-only",
        ("kidney_5 has no label; its 3 rows are not scored", "1 slices without a label are left out"),
        _write([*SCORED, "kidney_1_0007,1 0", *EMPTY]),
        refused=False,
    ),
    Case(
        "a sparse kidney and labels of its dense twin",
        SCORE,
        "the labels are those of kidney_3_dense",
        _all(_renamed("kidney_3_dense"), _rows_of("kidney_3_sparse")),
        refused=False,
    ),
    Case(
        "labels of two sizes in one kidney",
        SCORE,
        "the label of kidney_1_0001 is 41x31, but the masks of its kidney are 40x31: all must be of one size",
        _all(_label("kidney_1", 1, (41, 31)), _write(SCORED)),
    ),
    Case(
        "masks that fit the labels better one pixel further on",
        SCORE,
        "if starts are counted from 0, add 1 to each",
        _counted_from_0,
        refused=False,
    ),
    Case(
        "slices whose names hold a _",
        f"{AGAINST_CSV} --data-dir data",
        "\nkidney_1: surface_dice",
        lambda folder: [_underscored(folder), shutil.copy(folder / "s.csv", folder / "t.csv")],
        refused=False,
    ),
    # --- the size of the masks
    Case("a csv as truth that has no size", AGAINST_CSV, "give --size kidney_1=HEIGHTxWIDTH", _two_csv()),
    Case(
        "one size for two kidneys",
        f"{AGAINST_CSV} --size 40x31",
        "one --size 40x31 does not do for 2 kidneys (kidney_1, kidney_2): give --size KIDNEY=HEIGHTxWIDTH of each",
        _two_csv(also=["kidney_2"]),
    ),
    Case(
        "a size of one kidney of two",
        f"{AGAINST_CSV} --size kidney_1=40x31",
        "how large the masks of kidney_2 are",
        _two_csv(also=["kidney_2"]),
    ),
    Case("a size as two numbers", f"{AGAINST_CSV} --size 40 31", "kidney_1", _two_csv(), refused=False),
    Case("a negative size", f"{AGAINST_CSV} --size -40 31", "expected HEIGHTxWIDTH in whole numbers", _two_csv()),
    Case("a size of 0", f"{AGAINST_CSV} --size 0x31", "at least 1 and at most 67108864 pixels", _two_csv()),
    Case(
        "a size beyond the memory",
        f"{AGAINST_CSV} --size 1000000000 1000000000",
        "at most 67108864 pixels, found 1000000000x1000000000",
        _two_csv(),
    ),
    Case("a size that is none", f"{AGAINST_CSV} --size large", "found 'large'", _two_csv()),
    Case("a size of no kidney", f"{AGAINST_CSV} --size kidney_9=40x31", "is of none of the kidneys", _two_csv()),
    Case(
        "a size that is not the label's",
        f"{SCORE} --size 31x40",
        "the label of kidney_1_0000 is 40x31, but the masks of its kidney are 31x40",
        _write(SCORED),
    ),
    Case(
        "a size that is not the csv's",
        f"{AGAINST_CSV} --size 31x40",
        "masks of kidney_1 must be of one size, but they are 31x40 by --size and 40x31 by t.csv",
        _two_csv(",height,width", ",40,31"),
    ),
    Case(
        "a height beyond the memory in a csv",
        AGAINST_CSV,
        "t.csv 'kidney_1_0000': the size of a mask must be HEIGHTxWIDTH with at least 1 and at most 67108864 pixels",
        _two_csv(",height,width", ",1000000000,1000000000"),
    ),
    Case("a height that is no number", AGAINST_CSV, "found 'highx31'", _two_csv(",height,width", ",high,31")),
]
