"""Rows ↔ submission.csv: written as a stream and in one move, read back, checked against the test slices."""

import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import InputError
from .files import replacing
from .rle import rle_decode
from .volume import Volume

HEADER = ["id", "rle"]
_SHOWN_PROBLEMS = 20


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
    with replacing(path) as temporary_path, open(temporary_path, "w", newline="") as file:
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


def read_rows(path: Path | str) -> Iterator[dict[str, str]]:
    """Reads a submission row by row.

    Args:
        path: a csv with the columns `id` and `rle`, and maybe more.

    Yields:
        Field by column, unchecked.

    Raises:
        InputError: no such file, no such columns, a row of another length, a byte that is not text.
    """
    # A large open artery makes fields beyond the reader's default limit of 128 KiB.
    csv.field_size_limit(2**31 - 1)
    try:
        with open(path, newline="", encoding="utf-8") as file:
            reader = csv.reader(file, strict=True)
            header = next(reader, [])
            if any(header.count(name) != 1 for name in HEADER):
                found = ",".join(header)[:200]
                raise InputError(f"{path} is not a submission: expected the columns id,rle, found {found!r}")
            for row in reader:
                if len(row) != len(header):
                    raise InputError(f"{path} line {reader.line_num}: expected {len(header)} fields, found {len(row)}")
                yield dict(zip(header, row, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a submission: {error}") from error


def validate_submission(path: Path | str, volumes: Iterable[Volume]) -> list[str]:
    """Checks that Kaggle would accept a submission: every test slice once, in order, each mask decodable.

    Args:
        path: the csv.
        volumes: the test kidneys in order.

    Returns:
        Every problem found, one line each; empty when the submission is valid.

    Raises:
        InputError: the file is not a submission at all (see `read_submission`).
    """
    slices = {slice_id: (volume, z) for volume in volumes for z, slice_id in enumerate(volume.slice_ids)}
    order = iter(slices)
    in_order = True
    problems = []
    seen: set[str] = set()
    for slice_id, rle in read_submission(path):
        if slice_id not in slices:
            # On one line, whatever stands there.
            problems.append(f"{repr(slice_id)[1:-1][:100]}: is not a test slice")
        elif slice_id in seen:
            problems.append(f"{slice_id}: comes twice")
        else:
            seen.add(slice_id)
            if in_order and (expected := next(order)) != slice_id:
                in_order = False
                problems.append(f"{slice_id}: stands where {expected} was expected")
            volume, z = slices[slice_id]
            try:
                rle_decode(rle, *volume.slice_size(z))
            except InputError as error:
                problems.append(f"{slice_id}: {error}")
    return problems + [f"{slice_id}: is missing" for slice_id in slices if slice_id not in seen]


def refuse(path: Path | str, problems: Iterable[str]) -> None:
    """Raises InputError that names the problems, if there are any."""
    problems = list(problems)
    if problems:
        more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        raise InputError(f"{path} has {len(problems)} problem(s): {'; '.join(problems[:_SHOWN_PROBLEMS])}{more}")
