"""Every input of tests/input_cases, given to its command: python tests/input_table.py writes docs/inputs.md.

tests/cli/test_inputs.py does the same and compares each with its line there.
"""

import contextlib
import importlib
import io
import os
import pkgutil
import re
import shlex
import shutil
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(REPOSITORY), str(REPOSITORY / "tests")]

import input_cases  # noqa: E402
from input_cases import UNET, Case  # noqa: E402

from sennet_kaggle.__main__ import main as run_command  # noqa: E402
from sennet_kaggle.config import Preprocessing  # noqa: E402
from sennet_kaggle.models import create_model  # noqa: E402
from sennet_kaggle.models.checkpoint import Card, save_checkpoint  # noqa: E402

TABLE_PATH = REPOSITORY / "docs" / "inputs.md"
HEADER = """\
# What is read, what is refused, and what is said

Written by `python tests/input_table.py`; `tests/cli/test_inputs.py` runs the same commands and compares each with its
line. What is refused ends with this one line and exit status 2, and leaves no file behind. Of what is read the line
gives the warnings, or, where there are none, nothing.
"""
_SHOWN_COMMAND = 110
_KINDS = [
    importlib.import_module(f"input_cases.{module.name}") for module in pkgutil.iter_modules(input_cases.__path__)
]
CASES: dict[str, Case] = {
    f"{kind.__name__.split('.')[1]}: {case.given}": case for kind in _KINDS for case in kind.CASES
}
assert len(CASES) == sum(len(kind.CASES) for kind in _KINDS), "two cases have one name"


class Outcome(NamedTuple):
    """What came of a command."""

    status: int
    output: str
    error: str


def build_bench(root: Path) -> Path:
    """Makes the folder that every case starts from."""
    rng = np.random.default_rng(0)
    for kidney in ("test/kidney_5", "train/kidney_1"):
        for z in range(3):
            write_tiff(root / "data" / kidney / "images" / f"{z:04d}.tif", rng.integers(0, 2**16, (40, 31), np.uint16))
            if kidney.startswith("train"):
                label = 255 * (rng.random((40, 31)) < 0.1).astype(np.uint8)
                write_tiff(root / "data" / kidney / "labels" / f"{z:04d}.tif", label)
    card = Card("unet", UNET, Preprocessing(roi_size=32), 0.5)
    save_checkpoint(root / "small.safetensors", create_model("unet", **UNET), card)
    return root


def write_tiff(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), array, [cv2.IMWRITE_TIFF_COMPRESSION, 1])


def play(case: Case, bench: Path, root: Path) -> Outcome:
    """Gives a command its input, in a copy of the bench; checks what must hold of the folder after it."""
    shutil.copytree(bench, root, dirs_exist_ok=True, symlinks=True)
    output, error = io.StringIO(), io.StringIO()
    with contextlib.chdir(root):
        if case.prepare:
            case.prepare(root)
        before = contents(root)
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(error):
            try:
                status = run_command(shlex.split(case.command))
            except SystemExit as caught:  # the command line's own parser
                status = caught.code
        if case.refused:
            changed = before.items() ^ contents(root).items()
            assert not changed, f"left behind or changed: {sorted({name for name, _ in changed})}"
        elif case.check:
            case.check(root)
    return Outcome(status, tidy(output.getvalue(), root), tidy(error.getvalue(), root))


def contents(root: Path) -> dict[str, object]:
    """What lies in a folder: by path, when it was last written and how long it is."""
    return {
        str(path.relative_to(root)): (path.lstat().st_mtime_ns, path.lstat().st_size) if not path.is_dir() else None
        for path in root.rglob("*")
    }


def tidy(text: str, root: Path) -> str:
    """Without what differs from run to run."""
    text = text.replace("\r", "\n").replace(f"{root.resolve()}/", "").replace(f"{root}/", "")
    return re.sub(r"\d+\.\d+ GB", "… GB", text)


def said(case: Case, outcome: Outcome) -> list[str]:
    """The error of what is refused; the warnings of what is read."""
    begin = "error: " if case.refused else "warning: "
    return [line.removeprefix(begin) for line in outcome.error.splitlines() if line.startswith(begin)]


def line(case: Case, outcome: Outcome) -> str:
    """A row of the table."""
    command = case.command if len(case.command) <= _SHOWN_COMMAND else f"{case.command[: _SHOWN_COMMAND - 2]} …"
    words = "<br>".join(said(case, outcome)) or "nothing"
    cells = (case.given, f"`{command}`", "refused" if case.refused else "read", words)
    return f"| {' | '.join(' '.join(cell.replace('|', '/').split()) for cell in cells)} |"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        bench = build_bench(Path(folder) / "bench")
        text = HEADER
        for number, kind in enumerate(_KINDS):
            text += f"\n## {kind.TITLE}\n\n| given | command | | what it says |\n|---|---|---|---|\n"
            for at, case in enumerate(kind.CASES):
                root = Path(folder) / f"{number}-{at}"
                root.mkdir()
                text += line(case, play(case, bench, root)) + "\n"
                shutil.rmtree(root)
    TABLE_PATH.write_text(text)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
