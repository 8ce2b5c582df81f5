"""The bundle: deterministic, current, readable, exact."""

import hashlib
import json
import re
import shutil
import subprocess
import sys

import nbformat
import pytest
from conftest import REPOSITORY

NOTEBOOK_PATH = REPOSITORY / "kernel" / "sennet.ipynb"


def build(folder, *arguments):
    command = [sys.executable, "build_kernel.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


@pytest.fixture
def checkout(tmp_path):
    """A copy of what the build reads."""
    shutil.copytree(REPOSITORY / "sennet_kaggle", tmp_path / "sennet_kaggle")
    shutil.copytree(REPOSITORY / "kernel", tmp_path / "kernel", ignore=shutil.ignore_patterns("*.safetensors"))
    shutil.copy(REPOSITORY / "build_kernel.py", tmp_path)
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


def test_kernel_metadata_is_complete_and_offline():
    metadata = json.loads((REPOSITORY / "kernel-metadata.json").read_text())
    owner, slug = metadata["id"].split("/")
    assert metadata["title"].lower().replace(" ", "-") == slug and len(slug) >= 5
    assert (REPOSITORY / metadata["code_file"]) == NOTEBOOK_PATH
    assert metadata["language"] == "python" and metadata["kernel_type"] == "notebook"
    assert metadata["enable_internet"] is False and metadata["enable_gpu"] is True
    assert metadata["machine_shape"] == "NvidiaTeslaT4"
    assert metadata["competition_sources"] == ["blood-vessel-segmentation"]
    dataset = json.loads((REPOSITORY / "kernel" / "checkpoints" / "dataset-metadata.json").read_text())
    assert metadata["dataset_sources"] == [dataset["id"]]
    source = "".join(cell.source for cell in nbformat.read(NOTEBOOK_PATH, as_version=4).cells)
    assert f'checkpoint_source="{dataset["id"].split("/")[1]}"' in source
