"""What pip installs: the listed dependencies, and (slow) a wheel of it in an environment of its own."""

import ast
import re
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest
from conftest import REPOSITORY
from packaging.requirements import Requirement

import sennet_kaggle

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {name: [*map(Requirement, listed)] for name, listed in PROJECT["optional-dependencies"].items()}
BASE = [*map(Requirement, PROJECT["dependencies"])]
# By the name that is imported, where it is another.
DISTRIBUTIONS = {"cv2": "opencv-python", "skimage": "scikit-image"}
# What the commands of a clone need, and a notebook has.
IN_A_CLONE = {"IPython", "ipykernel", "nbclient", "nbformat"}
# What is used where it happens to be installed, for kinds of JPEG 2000 that OpenCV does not decode.
OR_ELSE = {"glymur", "imagecodecs"}


def pins() -> dict[str, list[str]]:
    """Pinned versions by package, of both files."""
    found: dict[str, list[str]] = {}
    for name in ("requirements.txt", "requirements-dev.txt"):
        for package, version in re.findall(r"^([\w-]+)==([\w.]+)", (REPOSITORY / name).read_text(), re.MULTILINE):
            found.setdefault(package, []).append(version)
    return found


@pytest.mark.parametrize("listed", [*BASE, *(each for extra in EXTRAS.values() for each in extra)], ids=str)
def test_a_pinned_version_is_within_the_range(listed):
    if listed.name == PROJECT["name"]:
        assert listed.extras == {"train", "report", "openvino", "scans", "vessels"}
        return
    assert pins()[listed.name]
    assert all(version in listed.specifier for version in pins()[listed.name])


def test_every_pinned_package_is_listed():
    listed = {each.name for each in (*BASE, *(each for extra in EXTRAS.values() for each in extra))}
    assert pins().keys() - listed == set()


def test_every_imported_package_is_listed():
    imported = set()
    for path in (REPOSITORY / "sennet_kaggle").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                imported.add(node.module.split(".")[0])
    needed = {DISTRIBUTIONS.get(name, name.replace("_", "-")) for name in imported - sys.stdlib_module_names}
    extras = (EXTRAS[name] for name in ("train", "report", "openvino", "scans", "vessels"))
    listed = {each.name for each in (*BASE, *(each for extra in extras for each in extra))}
    assert needed - listed <= IN_A_CLONE | OR_ELSE
    assert {each.name for each in BASE} <= needed


def test_one_version_everywhere():
    version = sennet_kaggle.__version__
    assert f"\nversion: {version}\n" in (REPOSITORY / "CITATION.cff").read_text()
    assert f"\n## {version}\n" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_the_hooks_run_the_pinned_ruff_and_name_no_host():
    text = (REPOSITORY / ".pre-commit-config.yaml").read_text()
    assert re.findall(r"repo: (\S+)", text) == ["local"] and "://" not in text


def build(kind: str, source_dir: Path, output_dir: Path) -> Path:
    """Builds by pip's own interface: kind is "wheel", "editable" or "sdist"."""
    for name in ("hatchling", "editables"):
        pytest.importorskip(name, reason=f"{name} is not installed (see requirements-dev.txt)")
    program = f"import sys, hatchling.build; print(hatchling.build.build_{kind}(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(output_dir)]
    result = subprocess.run(command, cwd=source_dir, check=True, capture_output=True, text=True)
    return output_dir / result.stdout.splitlines()[-1]


def names_in(wheel_path: Path) -> set[str]:
    with zipfile.ZipFile(wheel_path) as wheel:
        return {name for name in wheel.namelist() if ".dist-info/" not in name}


@pytest.mark.slow
def test_a_source_distribution_gives_the_same_wheel(tmp_path):
    sdist_path = build("sdist", REPOSITORY, tmp_path)
    with tarfile.open(sdist_path) as sdist:
        sdist.extractall(tmp_path, filter="data")
    from_sdist = build("wheel", tmp_path / sdist_path.name.removesuffix(".tar.gz"), tmp_path / "out")
    from_clone = build("wheel", REPOSITORY, tmp_path)
    assert from_sdist.read_bytes() == from_clone.read_bytes()
    package = REPOSITORY / "sennet_kaggle"
    ours = {path.relative_to(REPOSITORY).as_posix() for path in package.rglob("*") if path.is_file()}
    ours = {name for name in ours if "__pycache__" not in name}
    checkpoints = {f"sennet_kaggle/checkpoints/{path.name}" for path in (REPOSITORY / "kernel/checkpoints").iterdir()}
    assert names_in(from_clone) == ours | checkpoints


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_an_installed_package_predicts_from_any_folder(tmp_path, kind):
    """In an environment of its own, which sees the packages of this one and not the repository."""
    environment_dir, elsewhere = tmp_path / "environment", tmp_path / "elsewhere"
    elsewhere.mkdir()
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment_dir)], check=True)
    programs = environment_dir / ("Scripts" if sys.platform == "win32" else "bin")
    paths = sysconfig.get_paths(vars={"base": str(environment_dir), "platbase": str(environment_dir)})
    others = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    Path(paths["purelib"], "others.pth").write_text("\n".join(others))
    install = [sys.executable, "-m", "pip", "--python", str(programs / "python"), "install", "--quiet", "--no-index"]
    wheel_path = build(kind, REPOSITORY, tmp_path)
    subprocess.run([*install, "--no-deps", "--ignore-installed", str(wheel_path)], check=True)

    def run(*arguments: str, status: int = 0) -> subprocess.CompletedProcess:
        result = subprocess.run(arguments, cwd=elsewhere, capture_output=True, text=True, check=False)
        assert result.returncode == status, result.stderr
        return result

    program = str(programs / "sennet-kaggle")
    assert run(program, "--version").stdout == f"sennet-kaggle {sennet_kaggle.__version__}\n"
    where = run(str(programs / "python"), "-c", "import sennet_kaggle as s; print(s.__file__, s.segment)").stdout
    assert where.startswith(str(environment_dir if kind == "wheel" else REPOSITORY))
    run(program, "phantom", "P", "--name", "kidney_5", "--split", "test", "--shape", "3", "96", "80")
    run(program, "predict", "--data-dir", "P", "--output", "s.csv")
    command = [sys.executable, "-m", "sennet_kaggle", "predict", "--data-dir", str(elsewhere / "P"), "--output"]
    subprocess.run([*command, str(tmp_path / "here.csv")], cwd=REPOSITORY, check=True, capture_output=True)
    assert (elsewhere / "s.csv").read_bytes() == (tmp_path / "here.csv").read_bytes()
    run(program, "validate", "--submission", "s.csv", "--data-dir", "P")
    if kind == "wheel":
        error = run(program, "dry-run", status=2).stderr
        assert error.startswith("error: dry-run builds the notebook from a clone") and error.count("\n") == 1
        assert sorted(path.name for path in elsewhere.iterdir()) == ["P", "s.csv", "s.json"]
