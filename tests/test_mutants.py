"""The mutation tester: what it changes, and that it counts rightly on a small repository of its own."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import REPOSITORY

from benchmarks.mutant_changes import Mutant, choose, find_changes
from benchmarks.mutant_table import MODULES, NAMED
from benchmarks.mutants import Run, report


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("a < b", ["a <= b", "a >= b"]),
        ("a == b is c", ["a != b is c", "a == b is not c"]),
        ("a not in b", ["a in b"]),
        ("a and b and (c or d)", ["a or b and (c or d)", "a and b or (c or d)", "a and b and (c and d)"]),
        ("not a", [" a"]),
        ("a - b + c", ["a + b + c", "a - b - c"]),
        ("a += b", ["a -= b"]),
        ("3", ["2", "4"]),
        ("0.5", ["-0.5", "1.5"]),
        ("3600", ["1800", "5400"]),
        ("a = True", ["a = False"]),
        ("def f():\n    return [a]", ["def f():\n    return None"]),
        ("f(\n  a)", ["pass"]),
        ("if a:\n    b", ["if False:\n    b", "if True:\n    b"]),
        ("while a:\n    b", ["while False:\n    b"]),
        ("a if b else c", ["a if False else c", "a if True else c"]),
        ("[a for a in b if c]", ["[a for a in b if True]"]),
        ("é = 'é'; a == b", ["é = 'é'; a != b"]),
    ],
)
def test_each_operator(code, expected):
    source = code.encode()
    found = [source[:start] + new + source[end:] for _, start, end, new in find_changes(source)]
    assert [each.decode() for each in found] == expected


@pytest.mark.parametrize(
    "code",
    [
        '"""A text, 1 < 2."""',
        "f'{a + 1}'",
        "a + 'text'",
        "print(1, True)",
        "f = g(flush=True)",
        "def f(a: 1 < 2 = b) -> 3: ...",
        "@f(True)\nclass A: ...",
        "class A:\n    def __str__(self):\n        return 1",
        "if TYPE_CHECKING:\n    import a",
        "def f():\n    return None",
    ],
)
def test_what_only_says_something_is_left_alone(code):
    assert find_changes(code.encode()) == []


@pytest.mark.parametrize("module", sorted({*MODULES, *(named.module for named in NAMED)}))
def test_the_table_fits_the_code(module):
    """Every named text is there, and every file of tests; the sample follows from the seed."""
    mutants = choose(module, 5, 0)
    assert len(mutants) == 5 * (module in MODULES) + sum(named.module == module for named in NAMED)
    assert choose(module, 5, 0) == mutants and (module not in MODULES or choose(module, 5, 1) != mutants)
    assert all((REPOSITORY / test.partition("::")[0]).is_file() for mutant in mutants for test in mutant.tests)


CODE = """
def absolute(number):
    return -number if number < 0 else number


def halvings(number):
    count = 0
    while number > 1:
        number //= 2
        count += 1
    return count
"""
TESTS = """
from sennet_kaggle.small import absolute, halvings

def test():
    assert absolute(-3) == 3 and absolute(2) == 2 and halvings(8) == 3
"""
TABLE = """
from collections import namedtuple

MODULES = {"small": ("tests/test_small.py",)}
NAMED = [namedtuple("Named", "name module old new tests")("never ends", "small", "//= 2", "//= 1", MODULES["small"])]
EQUIVALENT = {("small", "return -number if number < 0 else number", "return -number if number <= 0 else number"): "-0"}
"""


@pytest.fixture
def repository(tmp_path):
    (tmp_path / "tests").mkdir()
    (tmp_path / "sennet_kaggle").mkdir()
    (tmp_path / "sennet_kaggle" / "__init__.py").touch()
    (tmp_path / "sennet_kaggle" / "small.py").write_text(CODE)
    (tmp_path / "tests" / "test_small.py").write_text(TESTS)
    (tmp_path / "pyproject.toml").write_text('[tool.pytest.ini_options]\npythonpath = ["."]')
    (tmp_path / "benchmarks").mkdir()
    for name in ("mutants.py", "mutant_changes.py"):
        shutil.copy(REPOSITORY / "benchmarks" / name, tmp_path / "benchmarks")
    (tmp_path / "benchmarks" / "mutant_table.py").write_text(TABLE)
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True)
    return tmp_path


def run(repository, *arguments):
    command = [sys.executable, "benchmarks/mutants.py", *arguments]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, timeout=200)


@pytest.mark.slow
def test_survivors_are_shown_and_counted(repository):
    """No test has -1, 0 or 1: two survive of 20, which is just enough. What never ends is killed by the clock."""
    done = run(repository, "--count", "99", "--timeout", "10", "--output", "found.json")
    assert done.returncode == 0, done.stderr
    mutants = json.loads((repository / "found.json").read_text())["mutants"]
    survived = sorted(mutant["new"] for mutant in mutants if mutant["outcome"] == "survived")
    assert survived == [f"return -number if number < {other} else number" for other in (-1, 1)]
    assert [mutant["change"] for mutant in mutants if mutant["outcome"] == "timed out"] == ["never ends", "constant"]
    assert "survived: sennet_kaggle/small.py:3: constant\n  - return -number if number < 0 else number\n" in done.stdout
    assert "| small | 20 | 18 | 2 | 2 | 90% |" in done.stdout


@pytest.mark.parametrize(
    ("killed", "late", "survived", "named_survived", "status", "row"),
    [
        pytest.param(8, 1, 1, 0, 0, "10 | 9 | 1 | 1 | 90%", id="nine tenths"),
        pytest.param(17, 0, 2, 0, 1, "19 | 17 | 0 | 2 | 89%", id="less"),
        pytest.param(99, 0, 0, 1, 1, "100 | 99 | 0 | 1 | 99%", id="a named one"),
    ],
)
def test_exit_status(capsys, killed, late, survived, named_survived, status, row):
    outcomes = ["killed"] * killed + ["timed out"] * late + ["survived"] * (survived + named_survived)
    mutants = [Mutant("small", None, (), is_named=number < named_survived) for number in range(len(outcomes))]
    assert report([Run((), *pair) for pair in zip(mutants[::-1], outcomes, strict=True)]) == status
    assert f"| small | {row} |\n| all | {row} |\n" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "old", "new", "message"),
    [
        ("tests/test_small.py", "== 3 and", "== 4 and", "tests/test_small.py must pass without a mutant, got FAILED"),
        ("sennet_kaggle/small.py", "//= 2", ">>= 1", "small.py must have '//= 2' once, for 'never ends'"),
        ("sennet_kaggle/small.py", "number < 0", "0 > number", "no change of sennet_kaggle/small.py makes 'return"),
    ],
)
def test_what_cannot_be_counted_ends_it(repository, path, old, new, message):
    (repository / path).write_text((repository / path).read_text().replace(old, new))
    done = run(repository)
    assert done.returncode == 1 and message in done.stderr and "Traceback" not in done.stderr
