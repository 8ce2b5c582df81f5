"""From clone to leaderboard with Kaggle's own client: what it sends is captured, executed, and its result validated."""

import hashlib
import json
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
from conftest import REPOSITORY
from kaggle_stub import CREATE_DATASET, CREATE_DATASET_VERSION, SAVE_KERNEL, SUBMIT, KaggleStub

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.data.phantom import Phantom, write_phantom
from sennet_kaggle.data.volume import open_volumes
from sennet_kaggle.kernel.dry_run import open_rehearsal_volumes, rehearse
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.submission.provenance import hash_package
from sennet_kaggle.submission.submission import read_submission, validate_submission


@pytest.fixture(scope="module")
def checkout(tmp_path_factory) -> Path:
    """A clone with its push folder, made for alice."""
    clone_dir = tmp_path_factory.mktemp("clone")
    for name in ("sennet_kaggle", "kernel"):
        shutil.copytree(REPOSITORY / name, clone_dir / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("build_kernel.py", "kaggle_metadata.py", "kernel-metadata.json"):
        shutil.copy(REPOSITORY / name, clone_dir)
    subprocess.run([sys.executable, "build_kernel.py", "--owner", "alice"], cwd=clone_dir, check=True)
    return clone_dir


@pytest.fixture
def stub():
    with KaggleStub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@dataclass(frozen=True)
class Pushed:
    """What Kaggle would have after a first push."""

    notebook_path: Path
    checkpoint_paths: list[Path]
    kernel: dict
    dataset: dict


@pytest.fixture(scope="module")
def pushed(checkout, tmp_path_factory) -> Pushed:
    """Dataset and kernel, pushed once by the real client."""
    pushed_dir = tmp_path_factory.mktemp("pushed")
    with KaggleStub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for command in (
            ["datasets", "create", "-p", str(checkout / "push" / "kernel" / "checkpoints")],
            ["kernels", "push", "-p", str(checkout / "push")],
        ):
            result = server.run_client(*command, home_dir=pushed_dir / "home")
            assert result.returncode == 0, result.stdout + result.stderr
        server.shutdown()
    (kernel,) = server.bodies(SAVE_KERNEL)
    (dataset,) = server.bodies(CREATE_DATASET)
    (pushed_dir / "pushed.ipynb").write_text(kernel["text"])
    for name, content in server.uploads.items():
        (pushed_dir / name).write_bytes(content)
    return Pushed(pushed_dir / "pushed.ipynb", sorted(pushed_dir.glob("*.safetensors")), kernel, dataset)


def test_the_kernel_that_kaggle_gets(pushed):
    expected = {
        "slug": "alice/sennet-kaggle",
        "newTitle": "sennet-kaggle",
        "language": "python",
        "kernelType": "notebook",
        "isPrivate": True,
        "enableGpu": True,
        "enableTpu": False,
        "enableInternet": False,
        "machineShape": "NvidiaTeslaT4",
        "dockerImagePinningType": "original",
        "datasetDataSources": ["alice/sennet-kaggle-checkpoints"],
        "competitionDataSources": ["blood-vessel-segmentation"],
    }
    assert {key: pushed.kernel.get(key) for key in expected} == expected
    assert not pushed.kernel.get("kernelDataSources") and not pushed.kernel.get("modelDataSources")
    text = pushed.kernel["text"]
    assert text.isascii() and len(text) < 1_000_000
    assert json.loads(text)["metadata"]["kernelspec"]["name"] == "python3"


def test_the_dataset_that_kaggle_gets(pushed):
    """Private, in alice's name, and every byte of the checkpoints."""
    shipped = {path.name: path.read_bytes() for path in (REPOSITORY / "kernel" / "checkpoints").glob("*.safetensors")}
    assert {path.name: path.read_bytes() for path in pushed.checkpoint_paths} == shipped
    assert (pushed.dataset["ownerSlug"], pushed.dataset["slug"]) == ("alice", "sennet-kaggle-checkpoints")
    assert pushed.dataset["isPrivate"] is True
    assert sorted(file["token"] for file in pushed.dataset["files"]) == sorted(shipped)


@pytest.mark.slow
def test_the_pushed_notebook_on_the_visible_test_folder(pushed, data_dir, tmp_path):
    volumes = open_rehearsal_volumes(data_dir, (), tmp_path)
    submission_path, *_ = rehearse(volumes, tmp_path, "old", pushed.notebook_path, pushed.checkpoint_paths)
    assert validate_submission(submission_path, volumes) == []
    ids = [slice_id for slice_id, _ in read_submission(submission_path)]
    assert ids == [f"kidney_{kidney}_{z:04d}" for kidney in (5, 6) for z in range(3)]


@pytest.mark.slow
def test_the_pushed_notebook_on_a_dummy_test_set(pushed, tmp_path):
    """As Kaggle's visible one: two kidneys of three slices, one of them of kidney_5's real size."""
    write_phantom(tmp_path, "kidney_5", Phantom((3, 1330, 1598)), split="test")
    write_phantom(tmp_path, "kidney_6", Phantom((3, 128, 96)), split="test")
    volumes = open_volumes(tmp_path, "test")
    submission_path, table, _ = rehearse(
        volumes, tmp_path / "out", "new", pushed.notebook_path, pushed.checkpoint_paths, on_kaggle=True
    )
    assert validate_submission(submission_path, volumes) == []
    assert len(list(read_submission(submission_path))) == 6
    assert table["predicted_px"].iloc[-1] > 0
    provenance = json.loads(submission_path.with_suffix(".json").read_text())
    assert provenance["package_sha256"] == hash_package(tmp_path / "out" / "kaggle" / "working" / "sennet_kaggle")
    assert [checkpoint["sha256"] for checkpoint in provenance["checkpoints"]] == [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in pushed.checkpoint_paths
    ]
    assert provenance["faults"] == provenance["dropped"] == []
    result = nbformat.read(tmp_path / "out" / "sennet.ipynb", as_version=4).cells[-1].outputs
    notes = [output.data["text/markdown"] for output in result if "text/markdown" in output.data]
    assert len(notes) == 1 and "placeholders of the visible test set" in notes[0]
    assert provenance["peak_ram"] <= provenance["memory"]["at_most"]["ram"]


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["old", "new"])
def test_the_pushed_notebook_at_full_depth(pushed, tmp_path, layout):
    """As many slices as kidney_5 has, small ones through a small model; one is damaged."""
    write_phantom(tmp_path, "kidney_5", Phantom((1012, 64, 80)), split="test", with_labels=False)
    damaged_path = tmp_path / "test" / "kidney_5" / "images" / "0500.tif"
    damaged_path.write_bytes(damaged_path.read_bytes()[:-1])
    arguments = {"in_channels": 1, "widths": [4, 8], "bottleneck": 8}
    card = Card("unet", arguments, Preprocessing(roi_size=64, mean=(0.5,), std=(0.5,)), 0.5)
    save_checkpoint(tmp_path / "small.safetensors", create_model("unet", **arguments), card)
    checkpoint_paths = [tmp_path / "small.safetensors"]
    volumes = open_volumes(tmp_path, "test")
    submission_path, *_ = rehearse(
        volumes, tmp_path / "out", layout, pushed.notebook_path, checkpoint_paths, on_kaggle=True
    )
    ids = [slice_id for slice_id, _ in read_submission(submission_path)]
    assert ids == [f"kidney_5_{z:04d}" for z in range(1012)]
    (fault,) = json.loads(submission_path.with_suffix(".json").read_text())["faults"]
    assert fault["where"] == "kidney_5_0500" and "truncated" in fault["problem"]


def test_an_update_and_a_submission(checkout, stub, tmp_path):
    """The README's later steps: a new version of the dataset, and a version of the kernel into the competition."""
    checkpoints_dir = checkout / "push" / "kernel" / "checkpoints"
    command = ["datasets", "version", "-p", str(checkpoints_dir), "-m", "longer training"]
    assert stub.run_client(*command, home_dir=tmp_path).returncode == 0
    (version,) = stub.bodies(CREATE_DATASET_VERSION)
    assert (version["ownerSlug"], version["datasetSlug"]) == ("alice", "sennet-kaggle-checkpoints")
    assert version["body"]["versionNotes"] == "longer training"
    assert stub.uploads == {path.name: path.read_bytes() for path in checkpoints_dir.glob("*.safetensors")}

    command = "competitions submit blood-vessel-segmentation -k alice/sennet-kaggle -v 7 -f submission.csv -m first"
    assert stub.run_client(*command.split(), home_dir=tmp_path).returncode == 0
    assert stub.bodies(SUBMIT) == [
        {
            "competitionName": "blood-vessel-segmentation",
            "kernelOwner": "alice",
            "kernelSlug": "sennet-kaggle",
            "kernelVersion": 7,
            "fileName": "submission.csv",
            "submissionDescription": "first",
        }
    ]


def test_the_client_lets_a_typo_pass_silently(checkout, stub, tmp_path):
    """Why build_kernel.py has rules of its own: the internet is on, and the client is content."""
    push_dir = shutil.copytree(checkout / "push", tmp_path / "push")
    metadata_path = push_dir / "kernel-metadata.json"
    metadata_path.write_text(metadata_path.read_text().replace("enable_internet", "enable_interent"))
    result = stub.run_client("kernels", "push", "-p", str(push_dir), home_dir=tmp_path / "home")
    assert result.returncode == 0 and "interent" not in result.stdout + result.stderr
    assert stub.bodies(SAVE_KERNEL)[0]["enableInternet"] is True
