"""The Makefile's environment: never another's is removed, no Python that cannot do is used, the size is said first."""

import os
import shutil
import subprocess

import pytest
from conftest import REPOSITORY

# A Python of some version that makes an environment of nothing but itself.
PYTHON = """#!/bin/sh
case "$*" in
    *platform*) echo {version} ;;
    "-m venv"*) mkdir -p "$3/bin" && cp "$0" "$3/bin/python" ;;
    *) echo "ran: $*" ;;
esac
"""
UV = """#!/bin/sh
test "$1" = --version && echo "uv 0" || echo "install: $*"
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make here")


def write_program(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def checkout(tmp_path):
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt"):
        shutil.copy(REPOSITORY / name, tmp_path)
    write_program(tmp_path / "bin" / "uv", UV)
    write_program(tmp_path / "bin" / "python", PYTHON.format(version="3.12.1"))
    return tmp_path


def make(checkout, *arguments, python="bin/python"):
    environment = {"PATH": f"{checkout / 'bin'}:/usr/bin:/bin", "HOME": str(checkout)}
    environment |= {key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ}
    return subprocess.run(
        ["make", f"PYTHON={python}", *arguments],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_environment_is_made_once_and_its_size_is_said_before(checkout):
    result = make(checkout, "env")
    assert result.returncode == 0, result.stderr
    assert (checkout / ".venv" / ".made-by-make").is_file()
    lines = result.stdout.splitlines()
    size, install = (
        next(i for i, line in enumerate(lines) if word in line) for word in ("8 GB", "install: pip install")
    )
    assert size < install
    assert "install" not in make(checkout, "env").stdout


def test_its_own_environment_is_made_anew_when_the_requirements_change(checkout):
    assert make(checkout, "env").returncode == 0
    (checkout / ".venv" / "old").touch()
    os.utime(checkout / ".venv" / "ready", (0, 0))
    assert make(checkout, "env").returncode == 0
    assert not (checkout / ".venv" / "old").exists()


@pytest.mark.parametrize("target", ["env", "clean"])
def test_anothers_environment_stays(checkout, target):
    mine = checkout / ".venv" / "bin" / "python"
    write_program(mine, "mine")
    write_program(checkout / ".venv-uv" / "mine", "mine")
    write_program(checkout / "dry-run" / "mine", "mine")
    result = make(checkout, target)
    assert mine.read_text() == "mine"
    assert (checkout / ".venv-uv" / "mine").exists() and (checkout / "dry-run" / "mine").exists()
    if target == "env":
        assert result.returncode == 2
        assert result.stderr.startswith("error: expected no .venv, or one that make has made, found another")
    else:
        assert result.stdout.count("make has not made it") == 3


def test_an_environment_that_was_stopped_half_made_is_its_own(checkout):
    write_program(
        checkout / "bin" / "stopped", '#!/bin/sh\ncase "$*" in *platform*) echo 3.12.1 ;; *) exit 1 ;; esac\n'
    )
    assert make(checkout, "env", python="bin/stopped").returncode == 2
    assert make(checkout, "env").returncode == 0


def test_clean_removes_what_make_has_made(checkout):
    assert make(checkout, "env").returncode == 0
    write_program(checkout / "dry-run" / ".dry-run.json", "{}")
    assert make(checkout, "clean").stdout == ""
    assert not (checkout / ".venv").exists() and not (checkout / "dry-run").exists()


@pytest.mark.parametrize("version", ["3.10.13", "3.13.0", "3.9.1", ""])
def test_a_python_that_cannot_do_is_refused_in_one_line(checkout, version):
    write_program(checkout / "bin" / "other", PYTHON.format(version=version))
    result = make(checkout, "test", python="bin/other")
    ours = [line for line in result.stderr.splitlines() if not line.startswith("make: ")]
    assert result.returncode == 2 and len(ours) == 1 and result.stdout == ""
    assert f"expected Python 3.11 or 3.12 to make .venv with, found {version or 'none'} at bin/other" in ours[0]
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("python", ["", "bin/nothing"])
def test_no_python_is_refused(checkout, python):
    result = make(checkout, "env", python=python)
    assert result.returncode == 2 and "found none" in result.stderr


def test_help_names_every_target(checkout):
    text = (checkout / "Makefile").read_text()
    targets = text.split(".PHONY:")[1].splitlines()[0].split()
    output = make(checkout, "help").stdout
    assert [target for target in targets if f"make {target}" not in output] == ["help", "browser"]
