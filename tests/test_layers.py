"""The shape of the package: a module imports only from rows below it in the design's table."""

import ast
from pathlib import Path

import pytest

PACKAGE_DIR = Path(__file__).resolve().parent.parent / "sennet_kaggle"
ROWS = [
    {"errors", "surface_metric"},
    {"allocator", "config", "distributed", "faults", "files", "inputs", "metrics", "stream", "tiff_header"},
    {
        "augment",
        "batching",
        "budget",
        "console",
        "experiments",
        "guard",
        "helpers",
        "hints",
        "journal",
        "losses",
        "models",
        "openvino_model",
        "padding",
        "tiff",
    },
    {"checkpoint", "phantom", "rle", "transforms", "volume", "windows"},
    {"axes", "background", "cache", "identity", "probability", "report", "steady", "submission", "training_model"},
    {"dataset", "notebook", "page", "predictor", "provenance", "rows", "stats", "truth"},
    {"predict", "score", "training_data"},
    {"api", "checkpoint_folder", "pack", "score_csv", "training_state", "trial"},
    {"segmenter"},
    {"card", "evaluate", "kernel", "sweep", "zero_shot"},
    {"train"},
    {"compare", "dry_run", "run"},
    {"ablate_axes"},
    {"ablate"},
    {"__main__"},
]
ROW_OF = {module: row for row, modules in enumerate(ROWS) for module in modules}


def imported_modules(text: str) -> set[str]:
    """First names of a module's relative imports, those inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            names = [node.module.split(".")[0]] if node.module else [alias.name for alias in node.names]
            found |= {*names} - {"__version__"}
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(name.startswith("sennet_kaggle") for name in names), "import relatively"
    return found


def upward_imports(sources: dict[str, str]) -> list[str]:
    return [
        f"{module} imports {imported}"
        for module, text in sources.items()
        for imported in imported_modules(text)
        if ROW_OF[imported] >= ROW_OF[module] and imported != module
    ]


def sources() -> dict[str, str]:
    paths = [path for path in PACKAGE_DIR.glob("*.py") if path.name != "__init__.py"]
    return {path.stem: path.read_text() for path in paths}


def test_every_module_has_a_row():
    assert {*sources(), "models"} == ROW_OF.keys()


def test_no_module_imports_upwards():
    assert upward_imports(sources()) == []


def test_models_import_only_errors_and_each_other():
    siblings = {path.stem for path in (PACKAGE_DIR / "models").glob("*.py")}
    for path in (PACKAGE_DIR / "models").glob("*.py"):
        assert imported_modules(path.read_text()) <= {"errors"} | siblings, path.name


@pytest.mark.parametrize(
    ("module", "line", "found"),
    [
        ("rle", "from .volume import Volume", "rle imports volume"),
        ("transforms", "def late():\n    from . import predict", "transforms imports predict"),
        ("dataset", "from .predict import Predictor", "dataset imports predict"),
    ],
)
def test_an_upward_import_is_found(module, line, found):
    """The check itself: one wrong line more and it fails."""
    changed = sources()
    changed[module] += line + "\n"
    assert upward_imports(changed) == [found]
