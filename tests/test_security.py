"""What the sources never do: unpickle, run text as code or hand a line to a shell."""

import ast

import pytest
from conftest import REPOSITORY

from sennet_kaggle.data.volume import find_volumes
from sennet_kaggle.errors import InputError

SOURCES = [
    *(REPOSITORY / "sennet_kaggle").rglob("*.py"),
    REPOSITORY / "build_kernel.py",
    REPOSITORY / "kaggle_metadata.py",
]
FORBIDDEN = {"eval", "exec", "system", "popen", "loads_pickle", "Unpickler", "extractall", "unpack_archive"}


def unsafe_calls(text: str) -> list[str]:
    """Calls that would run what a file or a command line says."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if not isinstance(node, ast.Call):
            continue
        name, keywords = ast.unparse(node.func), {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
        arguments = bool(node.args or node.keywords)
        unsafe = name.split(".")[-1] in FORBIDDEN and (name.split(".")[-1] != "eval" or arguments)
        unsafe |= name.startswith(("pickle.load", "joblib.load")) or keywords.get("shell") == "True"
        unsafe |= name == "torch.load" and keywords.get("weights_only") != "True"
        unsafe |= name == "np.load" and keywords.get("allow_pickle") != "False"
        found += [ast.unparse(node)] if unsafe else []
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_unsafe_call(path):
    assert unsafe_calls(path.read_text()) == []


@pytest.mark.parametrize(
    "call",
    [
        "torch.load(path)", "np.load(path)", "pickle.loads(b)", "eval(text)", "os.system(line)",
        "subprocess.run(line, shell=True)", "archive.extractall(folder)",
    ],
)  # fmt: skip
def test_the_check_finds(call):
    assert unsafe_calls(call) == [call]


@pytest.mark.parametrize("name", ["../secret", "/etc", "..", "k/../../secret"])
def test_a_kidneys_name_cannot_leave_the_data_folder(tmp_path, write_kidney, name):
    """Names come from the ids of a submission."""
    write_kidney(tmp_path / "data" / "train" / "k")
    write_kidney(tmp_path / "data" / "secret")
    write_kidney(tmp_path / "data" / "test" / "k", labels=False)
    with pytest.raises(InputError, match="has no kidney"):
        find_volumes(tmp_path / "data", (name,))
