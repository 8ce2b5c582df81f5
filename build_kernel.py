"""Bundles the package into one offline Kaggle notebook, kernel/sennet.ipynb.

Reads source text, imports nothing of the package; the same sources give the same bytes.

    python build_kernel.py                 write the notebook
    python build_kernel.py --check         exit 1 when the committed notebook is not what the sources give
    python build_kernel.py --owner NAME    also write push/, checked: what Kaggle's client uploads, in NAME's name
"""

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import sys
import tempfile
from graphlib import TopologicalSorter
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACKAGE = "sennet_kaggle"
NOTEBOOK_PATH = ROOT / "kernel" / "sennet.ipynb"
CHECKPOINTS_DIR = ROOT / "kernel" / "checkpoints"
# The same files as in the repository, at the same places, with the owner's name in them.
PUSH_DIR = ROOT / "push"
OWNER_VARIABLE = "KAGGLE_OWNER"
COMPETITION = "blood-vessel-segmentation"
CHECKPOINT_SOURCE = "sennet-kaggle-checkpoints"
# What goes into the notebook: these modules and all that they import.
BUNDLED = ("__init__", "kernel", "dataset", "losses")
# Kaggle refuses 1 MB of source; the client sends it as ASCII JSON.
MAX_BYTES = 900_000

INTRODUCTION = """\
# Blood vessels in HiP-CT kidney scans

This notebook segments every slice of every test kidney and writes `submission.csv`. It needs no internet: it carries
its own source, one cell per module in import order, and reads the trained checkpoints from an attached dataset.

1. **Modules**: each cell writes one file of the package `sennet_kaggle`.
2. **Check**: every file's sha256 against the manifest of the build.
3. **Settings**: where the inputs are, and how the model is run.
4. **Run**: test slices → masks → `submission.csv`.
5. **Result**: counts per kidney, and masks over their slices.

Built by `build_kernel.py`; edit the package, not this notebook."""

CHECK = """\
import hashlib
import sys
from pathlib import Path

MANIFEST = {manifest}

for path, sha256 in MANIFEST.items():
    found = hashlib.sha256(Path(path).read_bytes()).hexdigest()
    if found != sha256:
        raise RuntimeError(f"{{path}} is not what was built: expected sha256 {{sha256}}, found {{found}}; build again")
sys.path.insert(0, str(Path.cwd()))
print(f"{{len(MANIFEST)}} files as built")"""

SETTINGS = f"""\
import os

from sennet_kaggle.config import Inference
from sennet_kaggle.kernel import KernelSettings

KAGGLE_DIR = Path(os.environ.get("SENNET_KAGGLE_DIR", "/kaggle"))  # another folder in the local dry run

settings = KernelSettings(
    input_dir=KAGGLE_DIR / "input",
    submission_path=KAGGLE_DIR / "working" / "submission.csv",
    competition="{COMPETITION}",
    checkpoint_source="{CHECKPOINT_SOURCE}",
    strict=None,  # True: a fault ends the run, as at home; False: it costs what it touches, as on Kaggle
    time_budget_hours=None,  # 8.5 on Kaggle, no limit at home
    inference=Inference(
        threshold=None,  # the checkpoints' own
        axes="z",  # "zyx": also along the other two axes, three times the work
        tta="flips",  # 4 views of each window; "d4": 8; "none": itself
        average="probability",  # or "logit"
        overlap=0.25,  # windows only, as the next two
        importance="gaussian",
        sw_batch_size=None,  # windows at once; None: chosen from memory
        batch_size=None,  # whole slices at once
        scale=1.0,  # voxel size over that of training; of single kidneys: scales={{"kidney_6": 63.08 / 50}}
        scratch_dir=None,  # for "zyx"
        device="auto",
        precision="auto",
    ),
)
settings"""

RUN = """\
from sennet_kaggle.kernel import run_kernel

run_kernel(settings)"""

RESULT = """\
from IPython.display import Image
from sennet_kaggle.kernel import count_vessels, picture_of_submission

display(count_vessels(settings))
Image(picture_of_submission(settings))"""


def read_sources() -> dict[str, str]:
    """Reads the modules that go into the notebook.

    Returns:
        Text by path relative to the repository ("sennet_kaggle/rle.py"), a module after all that it imports.
    """
    paths = sorted((ROOT / PACKAGE).rglob("*.py"))
    package = {path.relative_to(ROOT).as_posix(): path.read_bytes().decode("utf-8") for path in paths}
    imports: dict[str, list[str]] = {}
    wanted = [f"{PACKAGE}/{name}.py" for name in BUNDLED]
    while wanted:
        path = wanted.pop()
        if path not in imports:
            imports[path] = sorted(imported_paths(path, package[path]) & package.keys() - {path})
            wanted += imports[path]
    for path in sorted(imports):
        # %%writefile is exact for every text but these.
        if not package[path].endswith("\n") or "\r" in package[path]:
            raise SystemExit(f"{path} must not be empty, must end with a newline and use \\n alone")
    order = TopologicalSorter(dict(sorted(imports.items()))).static_order()
    return {path: package[path] for path in order}


def imported_paths(path: str, text: str) -> set[str]:
    """Files of the package that a module's relative imports may name, also those inside functions."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = Path(path).parents[node.level - 1] / (node.module or "").replace(".", "/")
            modules = [base, *(base / alias.name for alias in node.names)]
            found |= {f"{module.as_posix()}.py" for module in modules}
            found |= {f"{module.as_posix()}/__init__.py" for module in modules}
    return found


def build_notebook(sources: dict[str, str]) -> dict:
    """Makes the notebook (nbformat 4.5) from the sources in the order of their cells."""
    folders = sorted({str(Path(path).parent) for path in sources})
    manifest = {path: hashlib.sha256(text.encode()).hexdigest() for path, text in sources.items()}
    cells = [
        _markdown("introduction", INTRODUCTION),
        _code(
            "folders",
            "from pathlib import Path\n\n" + "\n".join(f'Path("{folder}").mkdir(exist_ok=True)' for folder in folders),
        ),
    ]
    for path, text in sources.items():
        name = path.removesuffix(".py").replace("/", "-").replace("_", "-")
        cells.append(_markdown(f"about-{name}"[:64], f"### `{path}`\n\n{ast.get_docstring(ast.parse(text))}"))
        cells.append(_code(name[:64], f"%%writefile {path}\n{text.removesuffix(chr(10))}"))
    table = "{\n" + "".join(f'    "{path}": "{sha256}",\n' for path, sha256 in manifest.items()) + "}"
    for name, heading, source in (
        ("check", "Check", CHECK.format(manifest=table)),
        ("settings", "Settings", SETTINGS),
        ("run", "Run", RUN),
        ("result", "Result", RESULT),
    ):
        cells += [_markdown(f"about-{name}", f"## {heading}"), _code(name, source)]
    return {
        "cells": cells,
        "metadata": {
            "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
            "language_info": {"name": "python"},
        },
        "nbformat": 4,
        "nbformat_minor": 5,
    }


def _markdown(cell_id: str, source: str) -> dict:
    return {"cell_type": "markdown", "id": cell_id, "metadata": {}, "source": source.splitlines(keepends=True)}


def _code(cell_id: str, source: str) -> dict:
    cell = _markdown(cell_id, source)
    return {**cell, "cell_type": "code", "execution_count": None, "outputs": []}


def write_push_dir(owner: str, notebook: str) -> list[str]:
    """Writes push/, whole or not at all: the notebook with its metadata, the checkpoints with theirs.

    Args:
        owner: whose name goes into the metadata files.
        notebook: its text.

    Returns:
        What Kaggle or its client would get wrong, one line each; nothing is written unless it is empty.
    """
    # The notebook itself is built from this file and the package alone.
    from kaggle_metadata import OWNER, PLACEHOLDER, dataset_problems, kernel_problems

    if not re.fullmatch(OWNER, owner) or owner == PLACEHOLDER:
        return [f"--owner must be your name on Kaggle, as in your profile's address, found {owner!r}"]
    with tempfile.TemporaryDirectory(prefix=".push-", dir=ROOT) as temporary_dir:
        staged_dir = Path(temporary_dir) / "new"
        for path in (ROOT / "kernel-metadata.json", CHECKPOINTS_DIR / "dataset-metadata.json"):
            if path.is_file():
                content = path.read_bytes().replace(PLACEHOLDER.encode(), owner.encode())
                _write(staged_dir / path.relative_to(ROOT), content)
        _write(staged_dir / NOTEBOOK_PATH.relative_to(ROOT), notebook.encode())
        checkpoints_dir = staged_dir / CHECKPOINTS_DIR.relative_to(ROOT)
        for path in sorted(CHECKPOINTS_DIR.glob("*.safetensors")):
            shutil.copy2(path, checkpoints_dir)
        problems = [
            *kernel_problems(staged_dir, owner, COMPETITION, CHECKPOINT_SOURCE),
            *dataset_problems(checkpoints_dir, owner, CHECKPOINT_SOURCE),
        ]
        if not problems:
            if PUSH_DIR.exists():
                os.replace(PUSH_DIR, Path(temporary_dir) / "old")
            os.replace(staged_dir, PUSH_DIR)
    return problems


def main() -> int:
    arguments = parse_arguments()
    text = json.dumps(build_notebook(read_sources()), indent=1, ensure_ascii=True) + "\n"
    if len(text) > MAX_BYTES:
        print(f"the notebook would be {len(text):,} bytes, more than {MAX_BYTES:,}: leave modules out", file=sys.stderr)
        return 2
    output: Path = arguments.output or NOTEBOOK_PATH
    if arguments.check:
        if output.is_file() and output.read_bytes() == text.encode():
            print(f"{output.name} is current")
            return 0
        print(f"{output.name} is stale: run python build_kernel.py and commit it", file=sys.stderr)
        return 1
    owner = "" if arguments.output else arguments.owner or os.environ.get(OWNER_VARIABLE, "")
    problems = write_push_dir(owner, text) if owner else []
    if problems:
        print(*(f"error: {problem}" for problem in problems), sep="\n", file=sys.stderr)
        return 2
    temporary_path = output.with_name(f".{output.name}.tmp")
    _write(temporary_path, text.encode())
    os.replace(temporary_path, output)
    print(f"wrote {output.name}: {len(text):,} bytes" + (f"; {PUSH_DIR.name}/ is ready for {owner}" if owner else ""))
    return 0


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
    sys.exit(main())
