"""The page about Segment Anything has the tables that its results give, and small pictures."""

import importlib.util

import cv2
import numpy as np
import pandas as pd
import pytest
from conftest import REPOSITORY

from sennet_kaggle.errors import InputError
from sennet_kaggle.studies.sam_tables import format_zero_shot

SPEC = importlib.util.spec_from_file_location("sam_page", REPOSITORY / "benchmarks" / "sam_page.py")
sam_page = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(sam_page)


def test_the_page_has_the_tables_of_its_results():
    text = sam_page.PAGE.read_text(encoding="utf-8")
    tables = sam_page.read_tables(sam_page.PAGE.parent / "sam")
    assert tables and sam_page.fill(text, tables) == text


def test_the_pages_pictures_are_small_and_there():
    pictures = sorted((sam_page.PAGE.parent / "sam").rglob("*.png"))
    assert pictures and all(path.stat().st_size < 600_000 for path in pictures)
    text = sam_page.PAGE.read_text(encoding="utf-8")
    for path in pictures:
        assert f"(sam/{path.relative_to(sam_page.PAGE.parent / 'sam').as_posix()})" in text, path


def test_a_table_replaces_what_was_between_its_marks():
    text = "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"
    filled = sam_page.fill(text, {"x": "| new |\n"})
    assert filled == "a\n<!-- x -->\n\n| new |\n\n<!-- end of x -->\nb\n"
    assert sam_page.fill(filled, {"x": "| new |\n"}) == filled
    with pytest.raises(InputError, match="must have the marks <!-- y -->"):
        sam_page.fill(text, {"y": ""})


def test_runs_are_taken_with_small_pictures(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "runs" / "x").mkdir(parents=True)
    cv2.imwrite(str(tmp_path / "runs" / "x" / "big.png"), rng.integers(0, 255, (700, 700, 3), dtype=np.uint8))
    (tmp_path / "runs" / "x" / "prompts.csv").write_text("slice\n")
    (tmp_path / "runs" / "x" / "other.txt").touch()
    sam_page.take_runs(tmp_path / "runs", tmp_path / "docs")
    assert sorted(path.name for path in (tmp_path / "docs" / "x").iterdir()) == ["big.png", "prompts.csv"]
    assert (tmp_path / "docs" / "x" / "big.png").stat().st_size < 600_000
    assert cv2.imread(str(tmp_path / "docs" / "x" / "big.png")).shape[0] < 700


def test_zero_shot_table_ends_with_the_mean():
    names = ["slice", "masks", "dice_union", "dice_best", "dice_second", "dice_third", "dice_oracle", "seconds"]
    table = pd.DataFrame([("a", 2, 0.1, 0.5, 0.25, np.nan, 0.6, 3.0), ("b", 4, 0.3, 0.7, 0.75, 0.5, 0.8, 5.0)])
    lines = format_zero_shot(table.set_axis(names, axis=1)).splitlines()
    assert lines[0].startswith("| slice | masks | Dice, union | Dice, best | Dice, second |")
    assert lines[-1] == "| mean | 3 | 0.200 | 0.600 | 0.500 | 0.500 | 0.700 | 4.0 |"
