"""Rows ↔ submission.csv: written as a stream and in one move, read back, checked against the test slices."""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from ..data.volume import Volume
from ..errors import InputError, one_line, warn
from ..files import replacing
from .rle import MaskCheck, rle_decode

HEADER = ["id", "rle"]
_SHOWN_PROBLEMS = 20
# The most that a cell of a spreadsheet holds; the rest of a longer text is lost when the file is opened and saved.
_SPREADSHEET_CELL = 32767
_WITHOUT_INDEX = "write the csv with to_csv(path, index=False)"
# How a file begins that is no plain text, what it is, and the remedy.
_NOT_PLAIN_TEXT = {
    (b"\xff\xfe", b"\xfe\xff", b"i\0", b"\0i"): "UTF-16 text: save it as UTF-8",
    (b"\x1f\x8b",): "gzip-compressed: unpack it first (gunzip)",
    (b"PK\x03\x04",): "a zip archive or an Excel workbook: unpack it first, or write the csv without Excel",
    (b"\xd0\xcf\x11\xe0",): "an Excel workbook: write the csv without Excel",
    (b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!"): "compressed: unpack it first",
    (b"PAR1", b"ARROW1"): "a Parquet or Arrow table: write it as csv",
    (b"version https://git-lfs",): "a git-lfs pointer, not the file itself: run git lfs pull",
    (b"<!", b"<html", b"<HTML"): "a web page: download the file itself",
}


def write_submission(path: Path | str, rows: Iterable[tuple[str, str]]) -> int:
    """Writes a submission while its rows are being made; the file appears when the last row is written.

    Args:
        path: the csv to make; an existing one is replaced.
        rows: (slice id, run-length encoding) in the order of the file.

    Returns:
        How many rows were written.

    Raises:
        InputError: the folder of `path` is missing, or an id comes twice.
    """
    seen: set[str] = set()
    with replacing(path) as temporary_path, open(temporary_path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(HEADER)
        for slice_id, rle in rows:
            if slice_id in seen:
                raise InputError(f"slice {slice_id} comes twice: two slices have the same id")
            seen.add(slice_id)
            writer.writerow((slice_id, rle))
    return len(seen)


def read_submission(path: Path | str) -> Iterator[tuple[str, str]]:
    """As `read_rows`, the two columns alone: (slice id, run-length encoding)."""
    for row in read_rows(path):
        yield row["id"], row["rle"]


def read_rows(path: Path | str, columns: list[str] | None = None) -> Iterator[dict[str, str]]:
    """Reads a submission row by row, as pandas.read_csv does: without a byte order mark and without blank lines.

    Args:
        path: a csv with the columns `id` and `rle`, and maybe more.
        columns: gets the names of all columns before the first row.

    Yields:
        Field by column, unchecked; spaces stay where they are.

    Raises:
        InputError: no such file, no such columns, a row of another length, a file that is not UTF-8 text.
    """
    # A large open artery makes fields beyond the reader's default limit of 128 KiB.
    csv.field_size_limit(2**31 - 1)
    try:
        with _open_text(path) as file:
            reader = csv.reader(file, strict=True)
            rows = (row for row in reader if row and (len(row) > 1 or row[0].strip(" \t")))
            header = next(rows, [])
            if any(header.count(name) != 1 for name in HEADER):
                found = ",".join(header)[:200]
                raise InputError(
                    f"{path} is not a submission: expected the columns id,rle, found {found!r}{_cause(header)}"
                )
            if columns is not None:
                columns += header
            for row in rows:
                if len(row) != len(header):
                    indexed = len(row) == len(header) + 1 and row[0].isdigit()
                    raise InputError(
                        f"{path} line {reader.line_num}: expected {len(header)} fields, found {len(row)}"
                        + (f"; the first is the table's index: {_WITHOUT_INDEX}" if indexed else "")
                    )
                yield dict(zip(header, row, strict=True))
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise InputError(
            f"{path} cannot be read as a submission: it is not UTF-8 text (byte {byte:#04x}): save it as UTF-8"
        ) from error
    except FileNotFoundError as error:
        raise InputError(
            f"there is no {path}: expected a csv with the columns id,rle, such as predict writes"
        ) from error
    except (OSError, csv.Error) as error:
        hint = " (a quotation mark that is not closed)" if "unexpected end" in str(error) else ""
        raise InputError(f"{path} cannot be read as a submission: {one_line(error)}{hint}") from error


def read_unique_rows(path: Path | str) -> dict[str, dict[str, str]]:
    """Reads the rows of a submission by slice id; the texts, a few MB, are held in memory.

    Raises:
        InputError: as `read_rows`, no rows, ids that come twice, or fields that a spreadsheet has cut.
    """
    rows: dict[str, dict[str, str]] = {}
    repeated = []
    for row in read_rows(path):
        if row["id"] in rows:
            repeated.append(f"{_shown(row['id'])}: comes twice")
        rows[row["id"]] = row
    if not rows:
        raise InputError(f"{path} has no rows: expected one per slice below the columns id,rle")
    refuse(path, repeated + _cut_fields({slice_id: len(row["rle"]) for slice_id, row in rows.items()}))
    return rows


def validate_submission(path: Path | str, volumes: Iterable[Volume]) -> list[str]:
    """Checks that Kaggle would accept a submission: exactly id,rle, every test slice once, each mask decodable.

    Rows in another order, and masks that look inverted or numbered column by column, are valid; a warning says so.

    Args:
        path: the csv.
        volumes: the test kidneys in order.

    Returns:
        Every problem found, one line each; empty when the submission is valid.

    Raises:
        InputError: the file is not a submission at all (see `read_rows`).
    """
    slices = {slice_id: (volume, z) for volume in volumes for z, slice_id in enumerate(volume.slice_ids)}
    columns: list[str] = []
    problems, lengths, check = [], {}, MaskCheck()
    for row in read_rows(path, columns):
        slice_id, rle = row["id"], row["rle"]
        if slice_id not in slices:
            problems.append(f"{_shown(slice_id)}: is not a test slice{_spaces(slice_id, slices)}")
        elif slice_id in lengths:
            problems.append(f"{slice_id}: comes twice")
        else:
            lengths[slice_id] = len(rle)
            volume, z = slices[slice_id]
            try:
                check.add(rle_decode(rle, *volume.slice_size(z)))
            except InputError as error:
                problems.append(f"{slice_id}: {error}")
    if not problems and len(lengths) == len(slices):
        _remark_on_order(path, list(lengths), list(slices))
    warn_of_masks(path, check)
    missing = [f"{slice_id}: is missing" for slice_id in slices if slice_id not in lengths]
    if not lengths and not problems:
        missing = [f"has no rows: expected {len(slices)} below the columns id,rle"]
    return _check_columns(columns) + problems + _cut_fields(lengths) + missing


def refuse(path: Path | str, problems: Iterable[str], remedy: str = "") -> None:
    """Raises InputError that names the problems, if there are any, and ends with the remedy."""
    problems = list(problems)
    if problems:
        more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise InputError(
            f"{path} has {len(problems)} problem(s): {'; '.join(problems[:_SHOWN_PROBLEMS])}{more}{remedy}"
        )


def warn_of_masks(path: Path | str, check: MaskCheck) -> None:
    """Says when the masks of a file are inverted, or were numbered column by column."""
    if check.inverted:
        warn(
            f"{path}: the masks mark {check.vessel_share:.0%} of all pixels as vessel: if they are inverted, encode "
            "the vessels, not what is around them"
        )
    elif check.by_columns:
        warn(
            f"{path}: the masks would fit column by column, but pixels are numbered row by row (left to right, then "
            "down): encode mask.ravel(), without a transpose and without order='F', and do not swap height and width"
        )


def _open_text(path: Path | str) -> TextIO:
    """Opens a file as text, without its byte order mark, once its first bytes say that it can be text."""
    file = open(path, "rb")  # noqa: SIM115 (the caller closes it)
    begin = file.peek(64)
    found = next((found for begins, found in _NOT_PLAIN_TEXT.items() if begin.startswith(begins)), None)
    if found or b"\0" in begin:
        file.close()
        found = found or "binary data: name the csv itself"
        raise InputError(f"{path} is not a submission: expected a csv in UTF-8, found {found}")
    return io.TextIOWrapper(file, encoding="utf-8-sig", newline="")


def _cause(header: Sequence[str]) -> str:
    """Why a header is not that of a submission, and what to do, where that can be told."""
    twice = next((name for name in HEADER if header.count(name) > 1), None)
    if twice:
        return f": {twice} comes twice"
    line = ",".join(header)
    for separator, name in ((";", "semicolons"), ("\t", "tabs"), ("|", "bars")):
        if separator in line:
            return f": the fields are separated by {name}: save the file with commas"
    if not header:
        return ": the file is empty"
    if any(re.fullmatch(r"\s*\d+(\s+\d+)+\s*", field) for field in header):
        return ": the header is missing: write id,rle as the first line"
    if {field.strip().lower() for field in header} >= set(HEADER):
        return ": spaces and capitals count: write id,rle"
    return ""


def _check_columns(columns: Sequence[str]) -> list[str]:
    """What is wrong with the names of the columns, for Kaggle."""
    if columns == HEADER:
        return []
    extra = [repr(name)[1:-1][:50] for name in columns if name not in HEADER]
    if not extra:
        return [f"the columns are {','.join(columns)}: expected id,rle in this order"]
    indexed = columns[0] in ("", "Unnamed: 0")
    remedy = f"it is the table's index: {_WITHOUT_INDEX}" if indexed else "leave out the others"
    names = "without a name" if extra == [""] else ", ".join(extra)
    return [f"has the column(s) {names} besides id,rle: expected exactly id,rle; {remedy}"]


def _spaces(slice_id: str, slices: Iterable[str]) -> str:
    return ": remove the spaces around the id" if slice_id.strip() in slices else ""


def _cut_fields(lengths: dict[str, int]) -> list[str]:
    """Names the rows whose text ends where a spreadsheet cuts it.

    Args:
        lengths: characters of each row's encoding, by slice id.
    """
    cut = [slice_id for slice_id, length in lengths.items() if length == _SPREADSHEET_CELL]
    said = f"has exactly {_SPREADSHEET_CELL} characters, the most that a spreadsheet keeps in a cell"
    if len(cut) == 1 and max(lengths.values()) > _SPREADSHEET_CELL:  # the others are not cut: it may be chance
        warn(f"{_shown(cut[0])} {said}: if the file was ever saved by one, the mask is cut: write the csv again")
        return []
    return [
        f"{_shown(slice_id)}: {said}: the mask was cut there, so write the csv again without one" for slice_id in cut
    ]


def _remark_on_order(path: Path | str, found: Sequence[str], expected: Sequence[str]) -> None:
    for row, (slice_id, other) in enumerate(zip(found, expected, strict=True), start=1):
        if slice_id != other:
            warn(
                f"{path}: the rows are not in the order of the slices (row {row} is {slice_id}, in order {other}): "
                "rows are found by their id, so this is no fault"
            )
            return


def _shown(slice_id: str) -> str:
    """An id on one line, whatever stands in it."""
    return repr(slice_id)[1:-1][:100] if slice_id.strip() else "a row without an id"
