"""Every input of tests/input_cases: refused in one line, or read with what is worth saying; docs/inputs.md is so."""

from pathlib import Path

import pytest
from input_table import CASES, TABLE_PATH, build_bench, line, play, said


@pytest.fixture(scope="module")
def bench(tmp_path_factory, one_thread) -> Path:
    return build_bench(tmp_path_factory.mktemp("bench"))


@pytest.mark.parametrize("name", CASES)
def test_input(name, bench, tmp_path):
    case = CASES[name]
    outcome = play(case, bench, tmp_path)
    everything = outcome.output + outcome.error
    assert outcome.status == (2 if case.refused else 0), everything
    assert "Traceback" not in everything
    if case.refused:
        (error,) = said(case, outcome)
        assert outcome.error.splitlines()[-1] == f"error: {error}"  # nothing comes after it
        everything = error
    for text in (case.says,) if isinstance(case.says, str) else case.says:
        assert text in everything
    assert line(case, outcome) in TABLE_PATH.read_text().splitlines(), "run python tests/input_table.py"


def test_the_table_has_no_other_lines():
    lines = [line for line in TABLE_PATH.read_text().splitlines() if line.startswith("| ") and "| given |" not in line]
    assert len(lines) == len(CASES)
