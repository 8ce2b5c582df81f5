"""The bundle: deterministic, current, readable, exact."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import REPOSITORY

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
    (tmp_path / "kernel" / "checkpoints" / "unet.safetensors").write_bytes(b"weights")
    for name in ("build_kernel.py", "kaggle_metadata.py", "kernel-metadata.json"):
        shutil.copy(REPOSITORY / name, tmp_path)
    return tmp_path


def modules_of(notebook) -> dict[str, str]:
    """Source by path, as %%writefile would write it."""
    cells = [cell.source.split("\n", 1) for cell in notebook.cells if cell.source.startswith("%%writefile ")]
    return {first.removeprefix("%%writefile "): text + "\n" for first, text in cells}


def test_committed_notebook_is_current():
    result = build(REPOSITORY, "--check")
    assert result.returncode == 0, result.stderr


def test_same_sources_same_bytes_wherever_they_are(checkout):
    built = []
    for _ in range(2):
        assert build(checkout).returncode == 0
        built.append((checkout / "kernel" / "sennet.ipynb").read_bytes())
    assert built[0] == built[1] == NOTEBOOK_PATH.read_bytes()


@pytest.mark.parametrize("module", ["__init__.py", "rle.py", "models/unet.py", "kernel.py"])
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
        '"""New."""\n\nfrom .rle import EMPTY_RLE\n\nTWICE = 2 * EMPTY_RLE\n'
    )
    assert build(checkout, "--check").returncode == 0
    kernel = checkout / "sennet_kaggle" / "kernel.py"
    kernel.write_text(kernel.read_text() + "\nfrom . import new\n")
    assert build(checkout, "--check").returncode == 1
    assert build(checkout).returncode == 0
    modules = list(modules_of(nbformat.read(checkout / "kernel" / "sennet.ipynb", as_version=4)))
    assert modules.index("sennet_kaggle/rle.py") < modules.index("sennet_kaggle/new.py")


def test_too_large_is_refused(checkout):
    (checkout / "sennet_kaggle" / "errors.py").write_text('"""Big."""\n\nTABLE = "' + 900_000 * "x" + '"\n')
    before = (checkout / "kernel" / "sennet.ipynb").read_bytes()
    result = build(checkout)
    assert result.returncode == 2 and "more than 900,000" in result.stderr
    assert (checkout / "kernel" / "sennet.ipynb").read_bytes() == before


@pytest.mark.parametrize("text", ["", "A = 1", "A = 1\r\n"], ids=["empty", "no final newline", "CRLF"])
def test_what_writefile_would_change_is_refused(checkout, text):
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
    for needed in ("dataset", "losses", "rle", "predict", "kernel", "models/unet", "models/segformer", "models/sam"):
        assert f"sennet_kaggle/{needed}.py" in modules
    order = [path.removeprefix("sennet_kaggle/").removesuffix(".py") for path in modules]
    assert order.index("rle") < order.index("predict") < order.index("kernel")
    assert order.index("models/unet") < order.index("models/__init__") < order.index("checkpoint")


def test_manifest_names_every_file():
    notebook = nbformat.read(NOTEBOOK_PATH, as_version=4)
    check = next(cell.source for cell in notebook.cells if cell.id == "check")
    manifest = dict(re.findall(r'"(sennet_kaggle/[^"]+)": "([0-9a-f]{64})"', check))
    assert manifest == {path: hashlib.sha256(text.encode()).hexdigest() for path, text in modules_of(notebook).items()}


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
    assert result.stdout.endswith("push/ is ready for alice\n")
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


def test_the_push_folder_holds_nothing_of_an_earlier_build(checkout):
    assert build(checkout, "--owner", "alice").returncode == 0
    checkpoint_path = checkout / "kernel" / "checkpoints" / "unet.safetensors"
    checkpoint_path.rename(checkpoint_path.with_name("other.safetensors"))
    assert build(checkout, "--owner", "bob").returncode == 0
    assert [path.name for path in (checkout / "push").rglob("*.safetensors")] == ["other.safetensors"]
    assert "alice" not in (checkout / "push" / "kernel-metadata.json").read_text()


def test_what_kaggle_would_get_wrong_is_refused_and_nothing_is_written(checkout):
    metadata_path = checkout / "kernel-metadata.json"
    metadata_path.write_text(metadata_path.read_text().replace("enable_internet", "enable_interent"))
    before = {path: path.read_bytes() for path in checkout.rglob("*.*") if path.is_file()}
    result = build(checkout, "--owner", "alice")
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert len(lines) == 2 and all(line.startswith("error: kernel-metadata.json: ") for line in lines)
    assert "found 'enable_interent': write 'enable_internet'" in lines[0]
    assert {path: path.read_bytes() for path in before} == before
    assert not list(checkout.glob("*push*"))


@pytest.mark.parametrize("owner", ["your-kaggle-name", "Ann Lee", "alice/kernels", '"', ".."])
def test_an_owner_that_is_no_name_is_refused(checkout, owner):
    result = build(checkout, "--owner", owner)
    assert result.returncode == 2 and "--owner must be your name on Kaggle" in result.stderr
    assert not (checkout / "push").exists()


def test_a_rehearsal_writes_the_notebook_alone(checkout):
    assert build(checkout, "--output", "elsewhere/built.ipynb", KAGGLE_OWNER="alice").returncode == 0
    assert (checkout / "elsewhere" / "built.ipynb").read_bytes() == NOTEBOOK_PATH.read_bytes()
    assert not (checkout / "push").exists()
