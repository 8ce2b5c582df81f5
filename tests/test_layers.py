"""The shape of the package: rooms in an order, each importing only from those before it, and no import in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from conftest import REPOSITORY

PACKAGE_DIR = REPOSITORY / "sennet_kaggle"
FOUNDATION = {"__init__", "errors", "checks", "config", "files", "locking", "distributed", "progress", "rendering"}
ROOMS = [
    "data",
    "scans",
    "models",
    "submission",
    "inference",
    "scoring",
    "vessels",
    "reports",
    "training",
    "studies",
    "kernel",
    "cli",
]
ENTRANCES = {"__main__", "api"}
MOST_LINES, MOST_ARROWS = 326, 72


def room_of(path: str) -> str:
    """The room of a module, by its path in the package; modules beside the rooms are of "foundation" or "entrances"."""
    first, *rest = path.split("/")
    if rest:
        return first
    return "foundation" if first.removesuffix(".py") in FOUNDATION else "entrances"


def files_of(place: Path) -> set[str]:
    return {f"{place.as_posix()}.py", f"{place.as_posix()}/__init__.py"}


def imported(path: str, text: str, modules: dict[str, str]) -> set[str]:
    """The modules, by path, that a module imports from the package, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = Path(path).parents[node.level - 1] / (node.module or "").replace(".", "/")
            for alias in node.names:
                found |= files_of(base / alias.name) & modules.keys() or files_of(base) & modules.keys()
        elif isinstance(node, ast.ImportFrom | ast.Import):
            names = [node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            assert not any(name.startswith("sennet_kaggle") for name in names), f"{path}: import relatively"
    return found - {path}


def sources() -> dict[str, str]:
    return {path.relative_to(PACKAGE_DIR).as_posix(): path.read_text() for path in PACKAGE_DIR.rglob("*.py")}


def imports(modules: dict[str, str]) -> dict[str, set[str]]:
    return {path: imported(path, text, modules) for path, text in modules.items()}


def upward_imports(modules: dict[str, str]) -> list[str]:
    order = ["foundation", *ROOMS, "entrances"]
    return [
        f"{path} imports {other}"
        for path, others in imports(modules).items()
        for other in sorted(others)
        if order.index(room_of(other)) > order.index(room_of(path))
    ]


def test_every_module_is_in_a_room():
    assert {room_of(path) for path in sources()} == {"foundation", *ROOMS, "entrances"}
    beside = {path.removesuffix(".py") for path in sources() if "/" not in path}
    assert beside == FOUNDATION | ENTRANCES


def test_no_module_imports_upwards():
    assert upward_imports(sources()) == []


def test_no_import_goes_in_a_circle():
    try:
        [*TopologicalSorter(imports(sources())).static_order()]
    except CycleError as error:
        pytest.fail(" → ".join(error.args[1]))


def test_rooms_and_arrows_are_few():
    arrows = {(room_of(path), room_of(other)) for path, others in imports(sources()).items() for other in others}
    assert len({(a, b) for a, b in arrows if a != b}) <= MOST_ARROWS


def test_a_room_says_what_comes_in_and_goes_out():
    for room in ROOMS:
        said = ast.get_docstring(ast.parse((PACKAGE_DIR / room / "__init__.py").read_text()))
        assert "In: " in said and "Out: " in said and "first" in said, room


def test_modules_are_short():
    assert {path: lines for path, text in sources().items() if (lines := text.count("\n")) > MOST_LINES} == {}


@pytest.mark.parametrize(
    ("path", "line", "found"),
    [
        ("submission/rle.py", "from ..inference.predict import Predictor", "inference/predict.py"),
        ("data/transforms.py", "def late():\n    from ..inference import predict", "inference/predict.py"),
        ("errors.py", "from .data.volume import Volume", "data/volume.py"),
    ],
)
def test_an_upward_import_is_found(path, line, found):
    """The check itself: one wrong line more and it fails."""
    changed = sources()
    changed[path] += line + "\n"
    assert upward_imports(changed) == [f"{path} imports {found}"]


@pytest.mark.parametrize("folder", ["benchmarks", "docs"])
def test_scripts_find_the_package_where_it_is_not_installed(folder):
    """As the documents start them, `python benchmarks/….py`, which puts only the script's own folder on the path."""
    scripts = [path for path in (REPOSITORY / folder).glob("*.py") if '"__main__"' in path.read_text(encoding="utf-8")]
    assert scripts
    for path in scripts:
        text = path.read_text(encoding="utf-8")
        if "from sennet_kaggle" in text:
            assert "sys.path" in text.partition("from sennet_kaggle")[0], path.name
