"""Bundles the package into one offline Kaggle notebook, kernel/sennet.ipynb.

Reads source text, and imports nothing of the package unless it is to check the checkpoints (--owner); the same sources
give the same bytes.

    python build_kernel.py                 write the notebook
    python build_kernel.py --check         exit 1 when the committed notebook is not what the sources give
    python build_kernel.py --owner NAME    also write push/, checked: what Kaggle's client uploads, in NAME's name
"""

import argparse
import ast
import hashlib
import html
import json
import os
import re
import shutil
import signal
import sys
import tempfile
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent
PACKAGE = "sennet_kaggle"
NOTEBOOK_PATH = ROOT / "kernel" / "sennet.ipynb"
CHECKPOINTS_DIR = ROOT / "kernel" / "checkpoints"
# The same files as in the repository, at the same places, with the owner's name in them.
PUSH_DIR = ROOT / "push"
# What the last --owner wrote there: sha256 by path. All else in it is somebody's own.
PUSH_RECORD = ROOT / ".push.json"
OWNER_VARIABLE = "KAGGLE_OWNER"
COMPETITION = "blood-vessel-segmentation"
CHECKPOINT_SOURCE = "sennet-kaggle-checkpoints"
# What goes into the notebook: these modules and all that they import.
BUNDLED = ("__init__", "kernel/submit", "kernel/result", "data/dataset", "training/losses")
_OWN_IN_PUSH = (
    r"kernel-metadata\.json|kernel/sennet\.ipynb|kernel/checkpoints/(dataset-metadata\.json|[^/]+\.safetensors)"
)
# Kaggle refuses 1 MB of source; the client sends it as ASCII JSON.
MAX_BYTES = 900_000

INTRODUCTION = """\
# Introduction

**Blood vessels in HiP-CT kidney scans.** This notebook segments every slice of every test kidney and writes
`submission.csv`. It needs no internet: it carries its own source and reads the trained checkpoints from an attached
dataset.

- **Settings**: where the inputs are, and how the models are run. All that is meant to be changed is there.
- **Source**: the modules of the package `sennet_kaggle`, one folded cell each, written to disk and compared with the
  build.
- **Run**: test slices → masks → `submission.csv`.
- **Result**: counts per kidney, and masks outlined on their slices.

Built by `build_kernel.py`; edit the package, not the cells under Source."""

SETTINGS = f"""\
import os
from pathlib import Path

KAGGLE_DIR = Path(os.environ.get("SENNET_KAGGLE_DIR", "/kaggle"))  # another folder in the local dry run

KERNEL = dict(
    input_dir=KAGGLE_DIR / "input",
    submission_path=KAGGLE_DIR / "working" / "submission.csv",
    competition="{COMPETITION}",
    checkpoint_source="{CHECKPOINT_SOURCE}",  # owner/slug where two owners have that slug
    strict=None,  # True: a fault ends the run; False: it costs what it touches; None: False on Kaggle
    time_budget_hours=None,  # 8.5 on Kaggle, no limit locally
)
INFERENCE = dict(
    threshold=None,  # the checkpoints' own
    axes="z",  # "zyx": also along the other two axes, three times the work
    tta="flips",  # 4 views of each window; "d4": 8; "none": itself
    average="probability",  # or "logit"
    overlap=0.25,  # windows only, as the next two
    importance="gaussian",
    sw_batch_size=None,  # windows at once; None: chosen from memory
    batch_size=None,  # whole slices at once
    extra_scales=(2.0, 0.5),  # windows only: seen at these scales as well; (): a fifth of the work
    scale=1.0,  # voxel size over that of training; "auto": from the sizes; of one kidney: scales={{"kidney_6": 1.26}}
    scratch_dir=None,  # for "zyx"
    device="auto",
    precision="auto",
)"""

SOURCE = """\
# Source

Each folded cell writes one module of the package. The last one compares what was written with what was built.

<details>
<summary>The {count} modules, each after all that it imports</summary>

{modules}

</details>"""

WRITER = """\
import hashlib
import sys
from pathlib import Path

from IPython.core.magic import register_cell_magic

written_paths = set()


@register_cell_magic
def module(path, text):
    \"\"\"Writes the rest of the cell to a file, like %%writefile, but makes its folder and prints nothing.\"\"\"
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(text.encode())
    written_paths.add(Path(path))"""

CHECK = """\
PACKAGE_SHA256 = "{sha256}"

digest = hashlib.sha256()
for path in sorted(written_paths):
    digest.update(f"{{path.relative_to('{package}').as_posix()}}\\0".encode() + path.read_bytes() + b"\\0")
if digest.hexdigest() != PACKAGE_SHA256:
    raise RuntimeError(
        f"{package}/ is not what was built: expected {count} modules of sha256 {{PACKAGE_SHA256}}, "
        f"found {{len(written_paths)}} of {{digest.hexdigest()}}: run every cell of Source unchanged, or build again"
    )
sys.path.insert(0, str(Path.cwd()))
print(f"{{len(written_paths)}} modules as built, sha256 {{PACKAGE_SHA256[:12]}}")"""

RUN = """\
from sennet_kaggle.config import Inference
from sennet_kaggle.kernel.settings import KernelSettings
from sennet_kaggle.kernel.submit import run_kernel

settings = KernelSettings(**KERNEL, inference=Inference(**INFERENCE))
run_kernel(settings)"""

RESULT = """\
from IPython.display import Image, Markdown, display
from sennet_kaggle.kernel.result import count_vessels, picture_of_submission


def show_counts():
    from sennet_kaggle.reports.report import placeholder_note  # needs pandas, which the submission does not

    counts = count_vessels(settings).set_index("kidney")
    if note := placeholder_note(counts["slices"]):
        display(Markdown(note))
    display(counts.round({"vessel_percent": 3}))


def show_picture():
    display(Image(picture_of_submission(settings, rows=2)))


for show in (show_counts, show_picture):
    try:
        show()
    except Exception as error:  # the submission is complete, whatever can be shown of it
        print(f"cannot be shown: {error!r}")"""

# Kaggle's metadata and Jupyter's for a cell that is folded until it is clicked.
_FOLDED = {"_kg_hide-input": True, "jupyter": {"source_hidden": True}}


def read_sources() -> dict[str, str]:
    """Reads the modules that go into the notebook.

    Returns:
        Text by path relative to the repository ("sennet_kaggle/submission/rle.py"), a module after all that it imports.
    """
    paths = sorted((ROOT / PACKAGE).rglob("*.py"))
    package = {path.relative_to(ROOT).as_posix(): path.read_bytes().decode("utf-8") for path in paths}
    imports: dict[str, list[str]] = {}
    wanted = [f"{PACKAGE}/{name}.py" for name in BUNDLED]
    while wanted:
        path = wanted.pop()
        if path not in imports:
            imports[path] = sorted(imported_paths(path, package[path]) & package.keys() - {path})
            wanted += [*imports[path], *_init_paths(path)]
    for path in sorted(imports):
        # The cells write every text exactly but these.
        if package[path] != package[path].rstrip() + "\n" or "\r" in package[path]:
            raise SystemExit(f"{path} must not be empty, must end with one newline and use \\n alone")
    order = TopologicalSorter(dict(sorted(imports.items()))).static_order()
    return {path: package[path] for path in order}


def imported_paths(path: str, text: str) -> set[str]:
    """Files of the package that a module's relative imports may name, also those inside functions."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = Path(path).parents[node.level - 1] / (node.module or "").replace(".", "/")
            for module in (base, *(base / alias.name for alias in node.names)):
                found |= {f"{module.as_posix()}.py", f"{module.as_posix()}/__init__.py"}
    return found


def _init_paths(path: str) -> list[str]:
    """What Python runs before the module: the `__init__` of each folder that it lies in."""
    return [f"{folder.as_posix()}/__init__.py" for folder in Path(path).parents if folder.parts]


def build_notebook(sources: dict[str, str]) -> dict:
    """Makes the notebook (nbformat 4.5) from the sources in the order of their cells."""
    check = CHECK.format(sha256=hash_sources(sources), package=PACKAGE, count=len(sources))
    # In Jupyter this folds all the cells under the heading.
    source_heading = _markdown("about-source", SOURCE.format(count=len(sources), modules=list_modules(sources)))
    source_heading["metadata"] = {"jp-MarkdownHeadingCollapsed": True}
    return {
        "cells": [
            _markdown("introduction", INTRODUCTION),
            _markdown("about-settings", "# Settings"),
            _code("settings", SETTINGS),
            source_heading,
            _code("writer", WRITER, _FOLDED),
            *(module_cell(path, text) for path, text in sources.items()),
            _code("check", check, _FOLDED),
            _markdown("about-run", "# Run"),
            _code("run", RUN),
            _markdown("about-result", "# Result"),
            _code("result", RESULT),
        ],
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def module_cell(path: str, text: str) -> dict:
    """The folded cell that writes a module."""
    name = path.removesuffix(".py").replace("/", "-").replace("_", "-")
    return _code(name[:64], f"%%module {path}\n{text.removesuffix(chr(10))}", _FOLDED)


def hash_sources(sources: dict[str, str]) -> str:
    """The sha256 that `provenance.hash_package` gives once the sources are written."""
    digest = hashlib.sha256()
    for path in sorted(map(Path, sources)):
        text = sources[path.as_posix()]
        digest.update(f"{path.relative_to(PACKAGE).as_posix()}\0".encode() + text.encode() + b"\0")
    return digest.hexdigest()


def list_modules(sources: dict[str, str]) -> str:
    """A Markdown list of the modules, with the first line of each one's docstring."""
    lines = []
    for path, text in sources.items():
        summary = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
        lines.append(f"- `{path.removeprefix(f'{PACKAGE}/')}`: {html.escape(summary, quote=False)}")
    return "\n".join(lines)


def _markdown(cell_id: str, source: str) -> dict:
    return {"cell_type": "markdown", "id": cell_id, "metadata": {}, "source": source.splitlines(keepends=True)}


def _code(cell_id: str, source: str, metadata: dict[str, Any] | None = None) -> dict:
    cell = {**_markdown(cell_id, source), "metadata": metadata or {}}
    return {**cell, "cell_type": "code", "execution_count": None, "outputs": []}


class Push(NamedTuple):
    """What came of making push/."""

    problems: list[str]
    """What Kaggle or its client would get wrong, one line each; nothing is written unless it is empty."""
    left_out: list[str]
    """Names in kernel/checkpoints that do not go up."""
    commands: list[str]
    """What to do next."""


def write_push_dir(owner: str, notebook: str) -> Push:
    """Writes push/, whole or not at all: the notebook with its metadata, the checkpoints with theirs.

    Args:
        owner: whose name goes into the metadata files.
        notebook: its text.
    """
    # The notebook itself is built from this file and the package alone.
    from kaggle_metadata import PLACEHOLDER, dataset_problems, kernel_problems, next_commands

    try:
        from sennet_kaggle.kernel.checkpoint_folder import inspect_folder
    except ImportError as error:
        return Push(
            [f"--owner must be able to load the checkpoints, found {error}: run it with .venv/bin/python"], [], []
        )
    if not CHECKPOINTS_DIR.is_dir():
        return Push([f"{CHECKPOINTS_DIR.relative_to(ROOT)}/ must hold the checkpoints, found no such folder"], [], [])
    paths, problems, left_out = inspect_folder(CHECKPOINTS_DIR, notebook_inference())
    problems += foreign_files()
    with tempfile.TemporaryDirectory(prefix=".push-", dir=ROOT) as temporary_dir:
        staged_dir = Path(temporary_dir) / "new"
        for path in (ROOT / "kernel-metadata.json", CHECKPOINTS_DIR / "dataset-metadata.json"):
            if path.is_file():
                content = path.read_bytes().replace(PLACEHOLDER.encode(), owner.encode())
                _write(staged_dir / path.relative_to(ROOT), content)
        _write(staged_dir / NOTEBOOK_PATH.relative_to(ROOT), notebook.encode())
        checkpoints_dir = staged_dir / CHECKPOINTS_DIR.relative_to(ROOT)
        checkpoints_dir.mkdir(exist_ok=True)
        for path in paths:
            shutil.copy2(path, checkpoints_dir)
        problems += kernel_problems(staged_dir, owner, COMPETITION, CHECKPOINT_SOURCE)
        problems += dataset_problems(checkpoints_dir, owner, CHECKPOINT_SOURCE)
        if problems:
            return Push(problems, [], [])
        record = json.dumps(_hashes(staged_dir), indent=1)
        if PUSH_DIR.exists():
            os.replace(PUSH_DIR, Path(temporary_dir) / "old")
        os.replace(staged_dir, PUSH_DIR)
        PUSH_RECORD.write_text(record)
    return Push([], left_out, next_commands(PUSH_DIR, COMPETITION))


def notebook_inference() -> Any:
    """How the notebook's settings cell says that models are run."""
    from sennet_kaggle.config import Inference

    assigned = (node for node in ast.parse(SETTINGS).body if isinstance(node, ast.Assign))
    call: Any = next(node.value for node in assigned if ast.unparse(node.targets[0]) == "INFERENCE")
    return Inference(**{keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords})


def foreign_files() -> list[str]:
    """The line about files in push/ that this program did not put there as they are, and so must not remove."""
    if not PUSH_DIR.exists() and not PUSH_DIR.is_symlink():
        return []
    if PUSH_DIR.is_symlink() or not PUSH_DIR.is_dir():
        return [f"{PUSH_DIR.name} must be a folder of its own, found a link or file: move it away"]
    found = _hashes(PUSH_DIR)
    try:
        known = json.loads(PUSH_RECORD.read_text())
        foreign = [path for path, sha256 in found.items() if known.get(path) != sha256]
    except (OSError, ValueError, AttributeError):  # made by an earlier version, which kept no record
        foreign = [path for path in found if not re.fullmatch(_OWN_IN_PUSH, path)]
    if not foreign:
        return []
    shown = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
    return [f"{PUSH_DIR.name}/ must hold only what this makes, found {shown}: move that away, push/ is made anew"]


def _hashes(folder: Path) -> dict[str, str]:
    """The sha256 of every file by its path in a folder; empty for what is no file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())
    return {path.relative_to(folder).as_posix(): _hash(path) for path in paths}


def _hash(path: Path) -> str:
    if not path.is_file():
        return ""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def main() -> int:
    arguments = parse_arguments()
    text = json.dumps(build_notebook(read_sources()), indent=1, ensure_ascii=True) + "\n"
    if len(text) > MAX_BYTES:
        return _refuse([f"the notebook would be {len(text):,} bytes, more than {MAX_BYTES:,}: leave modules out"])
    output: Path = arguments.output or NOTEBOOK_PATH
    if arguments.check:
        if output.is_file() and output.read_bytes() == text.encode():
            print(f"{output.name} is current")
            return 0
        print(f"{output.name} is stale: run python build_kernel.py and commit it", file=sys.stderr)
        return 1
    owner = None if arguments.output else owner_of(arguments)
    try:
        push = Push([], [], []) if owner is None else write_push_dir(checked_owner(owner), text)
        if push.problems:
            return _refuse(push.problems)
        temporary_path = output.with_name(f".{output.name}.tmp")
        _write(temporary_path, text.encode())
        os.replace(temporary_path, output)
    except ValueError as error:
        return _refuse([str(error)])
    except OSError as error:
        return _refuse([f"cannot write {error.filename or output}: {error.strerror}"])
    for name in push.left_out:
        print(
            f"warning: {name} stays here: only *.safetensors in {CHECKPOINTS_DIR.name}/ itself go up", file=sys.stderr
        )
    print(f"wrote {output.name}: {len(text):,} bytes" + (f"; {PUSH_DIR.name}/ is ready for {owner}" if owner else ""))
    print(*push.commands, sep="\n", end="\n" if push.commands else "")
    return 0


def owner_of(arguments: argparse.Namespace) -> str | None:
    return os.environ.get(OWNER_VARIABLE) if arguments.owner is None else arguments.owner


def checked_owner(owner: str) -> str:
    """The name, if it can be one; raises ValueError."""
    from kaggle_metadata import OWNER, PLACEHOLDER

    if not re.fullmatch(OWNER, owner) or owner == PLACEHOLDER:
        raise ValueError(
            f"--owner must be your name on Kaggle, as in your profile's address, found {owner!r}: give it, or leave "
            f"out --owner and ${OWNER_VARIABLE}"
        )
    return owner


def _refuse(problems: list[str]) -> int:
    print(*(f"error: {problem}" for problem in problems), sep="\n", file=sys.stderr)
    return 2


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--check", action="store_true", help="only say whether the notebook is current")
    modes.add_argument("--output", type=Path, help="where to write the notebook, and it alone")
    modes.add_argument(
        "--owner", help=f"also write push/ in the name of this Kaggle user; by default ${OWNER_VARIABLE}"
    )
    return parser.parse_args()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # removes what is half made
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
