"""The bundle: deterministic, current, readable, exact."""

import filecmp
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import REPOSITORY, SMALL_SAM
from nbclient.exceptions import CellExecutionError
from safetensors.torch import save_file

from sennet_kaggle.config import DEFAULT_INFERENCE, Inference, Preprocessing
from sennet_kaggle.kernel.notebook import execute_notebook
from sennet_kaggle.kernel.settings import KernelSettings
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, load_checkpoint, save_checkpoint
from sennet_kaggle.submission.provenance import hash_package

WHOLE = Preprocessing()
NOTEBOOK_PATH = REPOSITORY / "kernel" / "sennet.ipynb"


def build(folder, *arguments, **variables):
    command = [sys.executable, "build_kernel.py", *arguments]
    environment = {key: value for key, value in os.environ.items() if key != "KAGGLE_OWNER"} | variables
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the build reads."""
    shutil.copytree(REPOSITORY / "sennet_kaggle", tmp_path / "sennet_kaggle")
    shutil.copytree(REPOSITORY / "kernel", tmp_path / "kernel", ignore=shutil.ignore_patterns("*.safetensors"))
    write_checkpoint(tmp_path / "kernel" / "checkpoints" / "unet.safetensors")
    for name in ("build_kernel.py", "kaggle_metadata.py", "kernel-metadata.json"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def write_checkpoint(path, prior=0.5, threshold=0.5):
    arguments = {"widths": [4], "bottleneck": 8, "prior": prior}
    save_checkpoint(path, create_model("unet", **arguments), Card("unet", arguments, WHOLE, threshold))


def load_build(folder):
    """The program of a checkout as a module."""
    spec = importlib.util.spec_from_file_location("build_kernel_of_a_checkout", folder / "build_kernel.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def push(checkout, monkeypatch, capsys):
    """Runs `build_kernel.py --owner alice` in this process; gives its exit status and both outputs."""

    def push(*arguments):
        module = load_build(checkout)
        monkeypatch.chdir(checkout)
        monkeypatch.delenv("KAGGLE_OWNER", raising=False)
        monkeypatch.setattr(sys, "argv", ["build_kernel.py", *(arguments or ("--owner", "alice"))])
        capsys.readouterr()
        return module.main(), *capsys.readouterr()

    return push


def contents(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def modules_of(notebook) -> dict[str, str]:
    """Source by path, as the cells write it."""
    cells = [cell.source.split("\n", 1) for cell in notebook.cells if cell.source.startswith("%%module ")]
    return {first.removeprefix("%%module "): text + "\n" for first, text in cells}


def sources_of(notebook):
    """The cells under the heading Source, as a notebook of their own."""
    ids = [cell.id for cell in notebook.cells]
    cells = notebook.cells[ids.index("writer") : ids.index("check") + 1]
    return nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)


def execute(notebook, folder):
    """Runs a notebook in a folder."""
    path = folder / "in.ipynb"
    nbformat.write(notebook, path)
    execute_notebook(path, folder / "out.ipynb", folder)
    return nbformat.read(folder / "out.ipynb", as_version=4)


def test_committed_notebook_is_current():
    result = build(REPOSITORY, "--check")
    assert result.returncode == 0, result.stderr


def test_same_sources_same_bytes_wherever_they_are(checkout):
    built = []
    for _ in range(2):
        assert build(checkout).returncode == 0
        built.append((checkout / "kernel" / "sennet.ipynb").read_bytes())
    # Without pytest's comparison, which takes minutes for two texts of this length.
    assert len({*built, NOTEBOOK_PATH.read_bytes()}) == 1


@pytest.mark.parametrize("module", ["__init__.py", "submission/rle.py", "models/unet.py", "kernel/submit.py"])
def test_check_fails_after_a_changed_line(checkout, module):
    path = checkout / "sennet_kaggle" / module
    path.write_text(path.read_text() + "# one more line\n")
    result = build(checkout, "--check")
    assert result.returncode == 1
    assert "stale: run python build_kernel.py" in result.stderr
    assert build(checkout).returncode == 0
    assert build(checkout, "--check").returncode == 0


def test_a_new_module_is_bundled_once_it_is_used(checkout):
    (checkout / "sennet_kaggle" / "new.py").write_text(
        '"""New."""\n\nfrom .submission.rle import EMPTY_RLE\n\nTWICE = 2 * EMPTY_RLE\n'
    )
    assert build(checkout, "--check").returncode == 0
    kernel = checkout / "sennet_kaggle" / "kernel" / "submit.py"
    kernel.write_text(kernel.read_text() + "\nfrom .. import new\n")
    assert build(checkout, "--check").returncode == 1
    assert build(checkout).returncode == 0
    modules = list(modules_of(nbformat.read(checkout / "kernel" / "sennet.ipynb", as_version=4)))
    assert modules.index("sennet_kaggle/submission/rle.py") < modules.index("sennet_kaggle/new.py")


def test_too_large_is_refused(checkout):
    (checkout / "sennet_kaggle" / "errors.py").write_text('"""Big."""\n\nTABLE = "' + 900_000 * "x" + '"\n')
    before = (checkout / "kernel" / "sennet.ipynb").read_bytes()
    result = build(checkout)
    assert result.returncode == 2 and "more than 900,000" in result.stderr
    assert (checkout / "kernel" / "sennet.ipynb").read_bytes() == before


@pytest.mark.parametrize(
    "text", ["", "A = 1", "A = 1\n\n", "A = 1\r\n"], ids=["empty", "no final newline", "blank line", "CRLF"]
)
def test_what_a_cell_would_change_is_refused(checkout, text):
    (checkout / "sennet_kaggle" / "errors.py").write_bytes(text.encode())
    result = build(checkout)
    assert result.returncode != 0 and "errors.py must not be empty" in result.stderr


def test_notebook_is_valid_and_small():
    content = NOTEBOOK_PATH.read_bytes()
    content.decode("ascii")
    assert len(content) < 900_000
    notebook = nbformat.read(NOTEBOOK_PATH, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"  # without one Kaggle does not start it
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_cells_carry_the_package_in_import_order():
    modules = modules_of(nbformat.read(NOTEBOOK_PATH, as_version=4))
    for path, text in modules.items():
        assert text == (REPOSITORY / path).read_text(), path
    needed = ("data/dataset", "training/losses", "submission/rle", "kernel/submit", "models/unet", "models/sam")
    for name in (*needed, *(f"{Path(path).parent.name}/__init__" for path in needed)):
        assert f"sennet_kaggle/{name}.py" in modules
    order = [path.removeprefix("sennet_kaggle/").removesuffix(".py") for path in modules]
    assert order.index("submission/rle") < order.index("inference/predict") < order.index("kernel/submit")
    assert order.index("models/unet") < order.index("models/__init__") < order.index("models/checkpoint")


def test_the_contents_are_five_headings():
    notebook = nbformat.read(NOTEBOOK_PATH, as_version=4)
    lines = [line for cell in notebook.cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    headings = [line for line in lines if line.startswith("#")]
    assert headings == [f"# {name}" for name in ("Introduction", "Settings", "Source", "Run", "Result")]
    for path in modules_of(notebook):
        assert sum(line.startswith(f"- `{path.removeprefix('sennet_kaggle/')}`: ") for line in lines) == 1


def test_the_settings_come_first_and_need_no_package():
    cells = [cell for cell in nbformat.read(NOTEBOOK_PATH, as_version=4).cells if cell.cell_type == "code"]
    assert cells[0].id == "settings" and "sennet_kaggle" not in cells[0].source
    names = {}
    exec(cells[0].source, names)
    settings = KernelSettings(**names["KERNEL"], inference=Inference(**names["INFERENCE"]))
    assert settings == KernelSettings(inference=Inference(tta="flips", extra_scales=(2.0, 0.5)))
    assert settings.inference == DEFAULT_INFERENCE


def test_the_sources_are_folded_and_nothing_else():
    """By Kaggle's metadata and by Jupyter's."""
    cells = [cell for cell in nbformat.read(NOTEBOOK_PATH, as_version=4).cells if cell.cell_type == "code"]
    shown = [cell.id for cell in cells if not cell.metadata]
    assert shown == ["settings", "run", "result"]
    folded = {"_kg_hide-input": True, "jupyter": {"source_hidden": True}}
    assert all(cell.metadata == folded for cell in cells if cell.id not in shown)


def test_the_cells_write_the_package_and_say_so_in_one_line(tmp_path):
    notebook = nbformat.read(NOTEBOOK_PATH, as_version=4)
    cells = execute(sources_of(notebook), tmp_path).cells
    sha256, modules = hash_package(tmp_path / "sennet_kaggle"), modules_of(notebook)
    assert f'PACKAGE_SHA256 = "{sha256}"' in cells[-1].source
    (output,) = (output for cell in cells for output in cell.outputs)
    assert output.text == f"{len(modules)} modules as built, sha256 {sha256[:12]}\n"
    for path, text in modules.items():
        assert (tmp_path / path).read_bytes() == text.encode(), path


@pytest.mark.parametrize(
    "text",
    [
        "\n\nA = 1\n\n\nB = 1\n",
        '"""\n%ls\n!ls $HOME {A} ?\n"""\n',
        "%%bash\nexit 1\n",
        "A = '\u2192\\n'  \n\x0c\nif A:\n\tB = 1\n",
    ],
    ids=["blank lines", "magics", "another magic", "odd characters"],
)
def test_any_text_is_written_exactly(checkout, text, tmp_path_factory):
    build_kernel = load_build(checkout)
    cells = [build_kernel._code("writer", build_kernel.WRITER), build_kernel.module_cell("deep/er/odd.py", text)]
    folder = tmp_path_factory.mktemp("run")
    execute(nbformat.from_dict({**build_kernel.build_notebook({}), "cells": cells}), folder)
    assert (folder / "deep" / "er" / "odd.py").read_bytes() == text.encode()


def change(cells):
    cells[3].source += "\n# one more line"


@pytest.mark.parametrize(
    ("spoil", "missing"), [(change, 0), (lambda cells: cells.pop(3), 1)], ids=["changed", "missing"]
)
def test_a_package_that_is_not_what_was_built_is_refused(tmp_path, spoil, missing):
    notebook = nbformat.read(NOTEBOOK_PATH, as_version=4)
    count, sources = len(modules_of(notebook)), sources_of(notebook)
    spoil(sources.cells)
    message = f"is not what was built: expected {count} modules .*, found {count - missing} of .*: run every cell"
    with pytest.raises(CellExecutionError, match=message):
        execute(sources, tmp_path)


def test_what_cannot_be_shown_does_not_fail_the_notebook(tmp_path, monkeypatch, capsys):
    """There is no submission, and no matplotlib."""
    monkeypatch.setitem(sys.modules, "sennet_kaggle.reports.report", None)
    cell = nbformat.read(NOTEBOOK_PATH, as_version=4).cells[-1]
    exec(cell.source, {"settings": KernelSettings(tmp_path, tmp_path / "submission.csv")})
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines] == 2 * ["cannot be shown"]


def test_the_notebook_asks_for_what_is_attached():
    metadata = json.loads((REPOSITORY / "kernel-metadata.json").read_text())
    assert (REPOSITORY / metadata["code_file"]) == NOTEBOOK_PATH
    dataset = json.loads((REPOSITORY / "kernel" / "checkpoints" / "dataset-metadata.json").read_text())
    assert metadata["dataset_sources"] == [dataset["id"]]
    source = "".join(cell.source for cell in nbformat.read(NOTEBOOK_PATH, as_version=4).cells)
    assert f'checkpoint_source="{dataset["id"].split("/")[1]}"' in source
    assert f'competition="{metadata["competition_sources"][0]}"' in source


@pytest.mark.parametrize(("arguments", "variable"), [(("--owner", "alice"), "bob"), ((), "alice")])
def test_the_push_folder_is_the_repository_in_the_owners_name(checkout, arguments, variable):
    result = build(checkout, *arguments, KAGGLE_OWNER=variable)
    assert result.returncode == 0, result.stderr
    assert "push/ is ready for alice\n" in result.stdout
    pushed = {path.relative_to(checkout / "push").as_posix(): path for path in (checkout / "push").rglob("*.*")}
    assert pushed.keys() == {
        "kernel-metadata.json",
        "kernel/sennet.ipynb",
        "kernel/checkpoints/dataset-metadata.json",
        "kernel/checkpoints/unet.safetensors",
    }
    for name, path in pushed.items():
        assert path.read_bytes() == (checkout / name).read_bytes().replace(b"your-kaggle-name", b"alice"), name
    assert json.loads(pushed["kernel-metadata.json"].read_text())["id"] == "alice/sennet-kaggle"


def test_the_next_commands_have_the_names_filled_in(push, checkout):
    status, output, error = push()
    assert (status, error) == (0, "")
    lines = [line.strip().split("kaggle ", 1)[-1] for line in output.splitlines() if line.startswith("  ")]
    assert lines == [
        "datasets create -p push/kernel/checkpoints",
        'datasets version -p push/kernel/checkpoints -m "what changed"',
        "datasets status alice/sennet-kaggle-checkpoints",
        "kernels push -p push",
        "kernels status alice/sennet-kaggle",
        "competitions submit blood-vessel-segmentation -k alice/sennet-kaggle -v VERSION -f submission.csv "
        '-m "what it is"',
    ]


def test_the_push_folder_holds_nothing_of_an_earlier_build(push, checkout):
    assert push()[0] == 0
    checkpoint_path = checkout / "kernel" / "checkpoints" / "unet.safetensors"
    write_checkpoint(checkpoint_path.with_name("other.safetensors"), prior=0.2)
    checkpoint_path.unlink()
    assert push("--owner", "bob")[0] == 0
    assert [path.name for path in (checkout / "push").rglob("*.safetensors")] == ["other.safetensors"]
    assert "alice" not in (checkout / "push" / "kernel-metadata.json").read_text()


@pytest.mark.parametrize("name", ["notes.txt", "kernel/checkpoints/mine.safetensors", "kernel-metadata.json"])
@pytest.mark.parametrize("with_record", [True, False])
def test_what_others_put_into_the_push_folder_stays(push, checkout, name, with_record):
    assert push()[0] == 0
    if not with_record:  # as an earlier version left it
        (checkout / ".push.json").unlink()
    (checkout / "push" / name).write_bytes(b"mine")
    before = contents(checkout)
    status, _, error = push()
    if not with_record and name != "notes.txt":
        assert status == 0  # that version's own files cannot be told from others of these names
        return
    assert status == 2 and contents(checkout) == before
    assert error == f"error: push/ must hold only what this makes, found {name}: move that away, push/ is made anew\n"


def test_a_push_folder_that_is_a_link_is_left_alone(push, checkout, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (checkout / "push").symlink_to(elsewhere)
    status, _, error = push()
    assert status == 2 and "push must be a folder of its own" in error and (checkout / "push").is_symlink()


def test_what_kaggle_would_get_wrong_is_refused_and_nothing_is_written(push, checkout):
    metadata_path = checkout / "kernel-metadata.json"
    metadata_path.write_text(metadata_path.read_text().replace("enable_internet", "enable_interent"))
    before = contents(checkout)
    status, _, error = push()
    assert status == 2
    lines = error.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: kernel-metadata.json: ") for line in lines)
    assert "found 'enable_interent': write 'enable_internet'" in lines[0]
    assert contents(checkout) == before
    assert not list(checkout.glob("*push*"))


def lacking(path):
    tensors = create_model("unet", widths=[4], bottleneck=8).state_dict()
    save_file({"head.weight": tensors["head.weight"]}, path, {"sennet_kaggle": metadata_of(path)})


def metadata_of(path):
    card = load_checkpoint(path)[1]
    return json.dumps(card, default=vars)


def not_finite(path):
    arguments = {"widths": [4], "bottleneck": 8}
    model = create_model("unet", **arguments)
    model.head.bias.data.fill_(float("nan"))
    save_checkpoint(path, model, Card("unet", arguments, WHOLE, 0.5))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "git-lfs pointer"),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), "is truncated or not a safetensors file"),
        (lambda path: path.write_text("<!doctype html><html>"), "an HTML page): download the file itself"),
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: save_file({"a": create_model("unet", widths=[4]).head.weight}, path), "has no card"),
        (lacking, "does not fit the model 'unet' it names"),
        (not_finite, "must hold finite numbers, found others in head.bias"),
        (lambda path: (path.unlink(), path.symlink_to("nowhere")), "is a link to nowhere, which is not there"),
    ],
    ids=["git-lfs", "truncated", "page", "empty", "foreign", "incomplete", "not finite", "broken link"],
)
def test_a_checkpoint_that_the_notebook_could_not_use_is_refused(push, checkout, spoil, message):
    assert push()[0] == 0
    path = checkout / "kernel" / "checkpoints" / "bad.safetensors"
    shutil.copy(path.with_name("unet.safetensors"), path)
    spoil(path)
    before = contents(checkout)
    status, output, error = push()
    assert status == 2 and output == "" and contents(checkout) == before
    (line,) = error.splitlines()
    assert line.startswith("error: checkpoint kernel/checkpoints/bad.safetensors ") and message in line


def test_a_checkpoint_that_cannot_follow_the_notebooks_settings_is_refused(push, checkout):
    folder = checkout / "kernel" / "checkpoints"
    save_checkpoint(folder / "sam.safetensors", create_model("sam", **SMALL_SAM), Card("sam", SMALL_SAM, WHOLE, 0.5))
    write_checkpoint(folder / "unet.safetensors", threshold=2)
    out_of_range = "error: unet.safetensors: threshold must lie in 0..1 (1 excluded), got 2"
    assert push()[2].splitlines() == [out_of_range]  # of Segment Anything views are only left out
    build_path = checkout / "build_kernel.py"
    build_path.write_text(build_path.read_text().replace('axes="z"', 'axes="zyx"'))
    lines = push()[2].splitlines()
    assert lines[0].startswith("error: sam.safetensors: Segment Anything proposes masks of whole slices")
    assert lines[1:] == [out_of_range]


def test_a_checkpoint_twice_is_refused(push, checkout):
    path = checkout / "kernel" / "checkpoints" / "unet.safetensors"
    shutil.copy(path, path.with_name("copy.safetensors"))
    assert push()[2] == (
        "error: unet.safetensors: expected another checkpoint, found a copy of copy.safetensors, which would count "
        "twice: remove one\n"
    )


def test_what_does_not_go_up_is_named(push, checkout):
    folder = checkout / "kernel" / "checkpoints"
    (folder / "old").mkdir()
    shutil.copy(folder / "unet.safetensors", folder / "old")
    (folder / "model.pth").write_bytes(b"1")
    status, _, error = push()
    assert status == 0
    assert error.splitlines() == [
        f"warning: {name} stays here: only *.safetensors in checkpoints/ itself go up" for name in ("model.pth", "old/")
    ]
    assert [path.name for path in (checkout / "push").rglob("*.safetensors")] == ["unet.safetensors"]


def test_a_missing_folder_of_checkpoints_is_one_line(push, checkout):
    shutil.rmtree(checkout / "kernel" / "checkpoints")
    assert push()[2] == "error: kernel/checkpoints/ must hold the checkpoints, found no such folder\n"


@pytest.mark.parametrize("owner", ["your-kaggle-name", "Ann Lee", "alice/kernels", '"', "..", ""])
def test_an_owner_that_is_no_name_is_refused(push, checkout, owner):
    status, _, error = push("--owner", owner)
    assert (
        status == 2 and f"--owner must be your name on Kaggle, as in your profile's address, found {owner!r}" in error
    )
    assert not (checkout / "push").exists()


def test_an_empty_owner_in_the_environment_is_refused(checkout):
    result = build(checkout, KAGGLE_OWNER="")
    assert result.returncode == 2 and "--owner must be your name on Kaggle" in result.stderr
    assert build(checkout, "--check", KAGGLE_OWNER="").returncode in (0, 1)


def test_a_rehearsal_writes_the_notebook_alone(checkout):
    assert build(checkout, "--output", "elsewhere/built.ipynb", KAGGLE_OWNER="alice").returncode == 0
    assert filecmp.cmp(checkout / "elsewhere" / "built.ipynb", NOTEBOOK_PATH, shallow=False)
    assert not (checkout / "push").exists()
