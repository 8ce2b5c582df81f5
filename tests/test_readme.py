"""The README's commands, run one after the other as a reader would, and every relative link of the documentation."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from conftest import REPOSITORY

from sennet_kaggle.data.phantom import Phantom, write_phantom

README = REPOSITORY / "README.md"
MOST_LINES = 150
PAGES = [README, REPOSITORY / "CONTRIBUTING.md", *sorted(REPOSITORY.glob("docs/**/*.md"))]
# Commands that do not run here, by how they begin.
SKIPPED = {
    "pip install": "makes an environment: tests/test_package.py builds and installs the wheel",
    "make test": "runs this very test",
    ".venv/bin/kaggle": "needs Kaggle's network: tests/kernel/test_push.py runs the client against a stub",
    "unzip": "unpacks what the line before it downloads",
}
# Options that shorten a training; the last option given counts.
SHORTENED = {
    ".venv/bin/python -m sennet_kaggle train": "--epochs 1 --epoch-slices 2 --window-size 64 --workers 0",
    ".venv/bin/python -m sennet_kaggle compare": """--override '{
        "*": {"epochs": 1, "batch_size": 2, "workers": 0, "preprocessing": {"roi_size": 32}},
        "unet-*": {"model_arguments": {"widths": [4, 8], "bottleneck": 8}},
        "segformer-*": {"model_arguments": {"hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 1, 1]}}}'""",
}
# What each of these leaves, in the README's order.
LEFT_BEHIND = {
    "sennet-kaggle phantom": "SCANS/test/phantom_1/images/0007.tif",
    "sennet-kaggle predict": "submission.csv",
    "sennet-kaggle segment": "mask.tif",
    "sennet-kaggle vessels": "tree/segments.csv",
    "make dry-run": "dry-run/submission.csv",
    ".venv/bin/python -m sennet_kaggle dry-run": "dry-run/slices.png",
    ".venv/bin/python -m sennet_kaggle train": "runs/mine/checkpoint.safetensors",
    ".venv/bin/python build_kernel.py": "push/kernel/sennet.ipynb",
    ".venv/bin/python -m sennet_kaggle compare": "runs/report/comparison.md",
}


def readme_commands() -> list[str]:
    """The lines of the README's shell blocks, continued lines joined."""
    blocks = re.findall(r"^```sh\n(.*?)^```", README.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]


def matching(command: str, table: dict[str, str]) -> list[str]:
    """The keys of a table that a command begins with."""
    return [start for start in table if command.startswith(start)]


def write_program(path: Path, command: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    path.chmod(0o755)


@pytest.fixture
def clone(tmp_path):
    """A copy of the repository whose .venv is this Python, with small kidneys as DATA."""
    for name in ("sennet_kaggle", "kernel"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in REPOSITORY.iterdir():
        if path.suffix in (".py", ".toml", ".txt", ".json", ".md") or path.name == "Makefile":
            shutil.copy(path, tmp_path)
    write_program(tmp_path / ".venv" / "bin" / "python", sys.executable)
    (tmp_path / ".venv" / "ready").touch()  # newer than the requirements: make has nothing to install
    write_program(tmp_path / "bin" / "sennet-kaggle", f"{sys.executable} -m sennet_kaggle")
    write_phantom(tmp_path / "DATA", "kidney_1_dense", Phantom((5, 96, 80), seed=1))
    write_phantom(tmp_path / "DATA", "kidney_2", Phantom((3, 96, 80), seed=2))
    return tmp_path


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux" or not shutil.which("make"), reason="needs Linux and make")
def test_the_commands_run_in_their_order(clone):
    # Without what the make that runs these tests hands down.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAKE") and name != "ARGS"}
    environment |= {"PATH": f"{clone / 'bin'}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    for command in readme_commands():
        if matching(command, SKIPPED):
            continue
        for start in matching(command, LEFT_BEHIND):
            (clone / LEFT_BEHIND[start]).unlink(missing_ok=True)  # an earlier command may have left one
        code = command.split("  #")[0].strip()
        added = [SHORTENED[start] for start in matching(command, SHORTENED)]
        result = subprocess.run(
            ["sh", "-c", " ".join([code, *added])],
            cwd=clone,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert result.returncode == 0, f"{code}\n{result.stdout[-2000:]}\n{result.stderr[-4000:]}"
        for start in matching(command, LEFT_BEHIND):
            assert (clone / LEFT_BEHIND[start]).is_file(), code


def test_every_command_is_run_or_skipped_with_a_reason():
    """A command that is new in the README needs a line in one of the tables, and no line is left over."""
    commands = readme_commands()
    for command in commands:
        assert len(matching(command, SKIPPED) + matching(command, LEFT_BEHIND)) == 1, command
    for start in (*SKIPPED, *LEFT_BEHIND, *SHORTENED):
        assert any(command.startswith(start) for command in commands), start


def test_its_length():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= MOST_LINES


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings: lower case, no punctuation, hyphens, numbered where repeated."""
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE):
        anchor = first = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        number = 0
        while anchor in found:
            number += 1
            anchor = f"{first}-{number}"
        found.add(anchor)
    return found


def broken_links(page: Path) -> list[str]:
    """The relative links and pictures of a page that lead nowhere."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    broken = []
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = unquote(link).partition("#")
        target = page.parent / name if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_its_links_lead_somewhere(page):
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path):
    (tmp_path / "b.md").write_text("# The *first*, again\n\n## Again\n\n## Again\n\n```\n# no heading\n```\n")
    page = tmp_path / "a.md"
    page.write_text(
        "# Top\n[1](b.md) [2](b.md#the-first-again) [3](b.md#again-1) [4](#top) [5](https://a.b/c) `[6](code)`\n"
        "[7](c.md) [8](b.md#no-heading) [9](#bottom) ![10](d.png) [11](b.md#again-2)\n"
    )
    assert broken_links(page) == ["c.md", "b.md#no-heading", "#bottom", "d.png", "b.md#again-2"]


def test_every_page_is_reachable_from_the_readme():
    reached, waiting = set(), [README]
    while waiting:
        page = waiting.pop().resolve()
        if page in reached or page.suffix != ".md" or not page.is_file():
            continue
        reached.add(page)
        links = re.findall(r"\]\(([^)\s#]+)[^)\s]*\)", page.read_text(encoding="utf-8"))
        waiting += [page.parent / link for link in links if ":" not in link]
    assert {page.resolve() for page in PAGES} <= reached
