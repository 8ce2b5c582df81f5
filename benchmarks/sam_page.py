"""Puts the results of sam-zero-shot and sam-prompts into docs/sam.md: tables between its marks, pictures beside it.

    python benchmarks/sam_page.py RUNS    take results and pictures of RUNS/<name> into docs/sam/<name>, then as below
    python benchmarks/sam_page.py         write the tables of docs/sam/<name>/*.csv into the page

A mark is `<!-- name -->` … `<!-- end of name -->`; results without one are an error. Pictures become smaller than
600 kB.
"""

import argparse
import re
import shutil
import sys
from pathlib import Path

import cv2
import pandas as pd

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.errors import InputError  # noqa: E402
from sennet_kaggle.files import write_whole  # noqa: E402
from sennet_kaggle.studies.sam_tables import format_prompts, format_zero_shot  # noqa: E402

PAGE = REPOSITORY / "docs" / "sam.md"
FORMATS = {"zero-shot.csv": format_zero_shot, "prompts.csv": format_prompts}
MAX_BYTES = 600_000


def take_runs(runs_dir: Path, results_dir: Path) -> None:
    """Copies the tables and pictures of finished runs, RUNS/<name>/, to docs/sam/<name>/."""
    for path in sorted(runs_dir.glob("*/*")):
        target = results_dir / path.parent.name / path.name
        if path.name in FORMATS:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        elif path.suffix == ".png":
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, shrink(path))


def shrink(path: Path) -> bytes:
    """A picture as PNG of fewer than 600 kB, smaller than it was if need be."""
    picture = cv2.imread(str(path), cv2.IMREAD_COLOR)
    scale, content = 1.0, path.read_bytes()
    while len(content) >= MAX_BYTES:
        scale *= 0.85
        smaller = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
        content = cv2.imencode(".png", smaller, [cv2.IMWRITE_PNG_COMPRESSION, 9])[1].tobytes()
    return content


def fill(text: str, tables: dict[str, str]) -> str:
    """The page with each table between its marks.

    Raises:
        InputError: a table whose marks the page does not have.
    """
    for name, table in tables.items():
        block = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end of {re.escape(name)} -->)", re.DOTALL)
        if not block.search(text):
            raise InputError(f"docs/sam.md must have the marks <!-- {name} --> and <!-- end of {name} -->: add them")
        text = block.sub(lambda match, table=table: f"{match[1]}\n{table}\n{match[2]}", text)
    return text


def read_tables(results_dir: Path) -> dict[str, str]:
    """The tables in Markdown by the name of the run."""
    paths = sorted(path for path in results_dir.glob("*/*.csv") if path.name in FORMATS)
    return {path.parent.name: FORMATS[path.name](pd.read_csv(path)) for path in paths}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=Path)
    runs = parser.parse_args().runs
    results_dir = PAGE.parent / "sam"
    if runs is not None:
        take_runs(runs, results_dir)
    write_whole(PAGE, fill(PAGE.read_text(encoding="utf-8"), read_tables(results_dir)).encode())


if __name__ == "__main__":
    main()
