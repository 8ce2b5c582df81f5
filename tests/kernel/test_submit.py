"""Finding the inputs in both of Kaggle's mount layouts, or saying what is missing."""

import dataclasses
import json

import pytest

from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.data.volume import find_volumes
from sennet_kaggle.errors import InputError
from sennet_kaggle.inference.loading import load_predictors
from sennet_kaggle.inference.predict import predict_probabilities
from sennet_kaggle.kernel import submit
from sennet_kaggle.kernel.cost_probe import Memory
from sennet_kaggle.kernel.inputs import find_checkpoints, find_competition
from sennet_kaggle.kernel.result import count_vessels, picture_of_submission
from sennet_kaggle.kernel.settings import KernelSettings
from sennet_kaggle.kernel.submit import run_kernel
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint

UNET = {"widths": [4, 8], "bottleneck": 8}
COMPETITION = {"old": "blood-vessel-segmentation", "new": "competitions/blood-vessel-segmentation"}
CHECKPOINTS = {
    "old": "sennet-kaggle-checkpoints",
    "new": "datasets/somebody/sennet-kaggle-checkpoints",
    "model": "models/somebody/sennet-kaggle-checkpoints/pytorch/default/3",
    "old model": "sennet-kaggle-checkpoints/pytorch/default/3",
    "below the top": "datasets/somebody/sennet-kaggle-checkpoints/unzipped/here",
}


@pytest.fixture
def settings(tmp_path):
    (tmp_path / "input").mkdir()
    return KernelSettings(tmp_path / "input", tmp_path / "submission.csv", inference=Inference(batch_size=2))


@pytest.fixture
def mount(settings, write_kidney):
    def mount(competition: str | None, checkpoints: str | None):
        if competition:
            test_dir = settings.input_dir / COMPETITION[competition] / "test"
            write_kidney(test_dir / "kidney_6", depth=3, labels=False, first=5)
            write_kidney(test_dir / "kidney_5", depth=2, labels=False)
        if checkpoints:
            folder = settings.input_dir / CHECKPOINTS[checkpoints]
            folder.mkdir(parents=True)
            for name in ("b", "a"):
                card = Card("unet", UNET, Preprocessing(roi_size=32), 0.5)
                save_checkpoint(folder / f"{name}.safetensors", create_model("unet", **UNET), card)

    return mount


@pytest.mark.parametrize("competition", COMPETITION)
@pytest.mark.parametrize("checkpoints", CHECKPOINTS)
def test_every_layout(settings, mount, competition, checkpoints):
    mount(competition, checkpoints)
    assert find_competition(settings.input_dir, settings.competition) == settings.input_dir / COMPETITION[competition]
    assert [path.name for path in find_checkpoints(settings.input_dir, settings.checkpoint_source)] == [
        "a.safetensors",
        "b.safetensors",
    ]


def test_missing_inputs_say_what_is_mounted(settings, mount):
    with pytest.raises(InputError, match="'blood-vessel-segmentation' is not attached.*Mounted: nothing"):
        find_competition(settings.input_dir, settings.competition)
    mount("new", None)
    with pytest.raises(
        InputError,
        match="no .*.safetensors of 'sennet-kaggle-checkpoints'.*Mounted: competitions/blood-vessel-segmentation$",
    ):
        find_checkpoints(settings.input_dir, settings.checkpoint_source)


def attach(settings, *paths):
    for number, path in enumerate(paths):
        path = settings.input_dir / path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes([number]))


def found_in(settings, source="sennet-kaggle-checkpoints"):
    return [str(path.relative_to(settings.input_dir)) for path in find_checkpoints(settings.input_dir, source)]


def test_checkpoints_at_several_depths_in_one_order(settings):
    dataset = "datasets/somebody/sennet-kaggle-checkpoints"
    names = [f"{dataset}/{name}.safetensors" for name in ("z", "folds/1", "folds/0", "a")]
    strays = [
        f"{dataset}/{name}" for name in (".ipynb_checkpoints/a-checkpoint.safetensors", "__MACOSX/._a.safetensors")
    ]
    attach(settings, *names, *strays, f"{dataset}/old.pth", "competitions/blood-vessel-segmentation/stray.safetensors")
    assert found_in(settings) == sorted(names)


def test_a_checkpoint_that_is_there_twice_counts_once(settings, capsys, caplog):
    attach(settings, "sennet-kaggle-checkpoints/b.safetensors", "sennet-kaggle-checkpoints/unzipped/b.safetensors")
    (settings.input_dir / "sennet-kaggle-checkpoints/unzipped/b.safetensors").write_bytes(bytes([0]))
    assert found_in(settings) == ["sennet-kaggle-checkpoints/b.safetensors"]
    assert "unzipped/b.safetensors is the same checkpoint as" in caplog.text


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("datasets/alice/sennet-kaggle-checkpoints", "datasets/bob/sennet-kaggle-checkpoints"),
        ("datasets/bob/sennet-kaggle-checkpoints", "sennet-kaggle-checkpoints"),
        ("datasets/bob/sennet-kaggle-checkpoints", "models/bob/sennet-kaggle-checkpoints/pytorch/default/1"),
        (
            "models/bob/sennet-kaggle-checkpoints/pytorch/default/1",
            "models/bob/sennet-kaggle-checkpoints/pytorch/default/2",
        ),
        ("sennet-kaggle-checkpoints/pytorch/default/1", "sennet-kaggle-checkpoints/pytorch/large/1"),
    ],
    ids=["two owners", "both layouts", "dataset and model", "two versions", "two variations, old layout"],
)
def test_two_inputs_of_one_slug_are_named_and_never_averaged(settings, first, second):
    attach(settings, f"{first}/a.safetensors", f"{second}/b.safetensors")
    with pytest.raises(InputError, match=f"found {first} and {second}: detach all but one, or name its owner"):
        find_checkpoints(settings.input_dir, "sennet-kaggle-checkpoints")


def test_the_owner_tells_two_inputs_of_one_slug_apart(settings):
    attach(settings, *(f"datasets/{owner}/sennet-kaggle-checkpoints/{owner}.safetensors" for owner in ("alice", "bob")))
    assert found_in(settings, "bob/sennet-kaggle-checkpoints") == [
        "datasets/bob/sennet-kaggle-checkpoints/bob.safetensors"
    ]


def test_one_input_in_both_layouts_is_one(settings):
    attach(settings, "datasets/alice/sennet-kaggle-checkpoints/a.safetensors")
    (settings.input_dir / "sennet-kaggle-checkpoints").symlink_to("datasets/alice/sennet-kaggle-checkpoints")
    assert found_in(settings) == ["sennet-kaggle-checkpoints/a.safetensors"]


def test_a_dataset_without_checkpoint_says_what_it_holds(settings):
    attach(settings, "datasets/alice/sennet-kaggle-checkpoints/model.pth")
    with pytest.raises(InputError, match="no .*.safetensors of .* holds model.pth.: add .*Mounted: datasets/alice/sen"):
        find_checkpoints(settings.input_dir, "sennet-kaggle-checkpoints")


def test_run_counts_and_picture(settings, mount, capsys):
    mount("old", "new")
    run_kernel(settings)
    lines = settings.submission_path.read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "id", "kidney_5_0000", "kidney_5_0001", "kidney_6_0005", "kidney_6_0006", "kidney_6_0007",
    ]  # fmt: skip
    assert "5 rows, one per test slice" in capsys.readouterr().out
    table = count_vessels(settings)
    assert table["kidney"].tolist() == ["kidney_5", "kidney_6"]
    assert table["slices"].tolist() == [2, 3]
    assert picture_of_submission(settings).startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("trained_on", "scales", "faults"),
    [(("kidney_1_dense_0000",), {"kidney_6": pytest.approx(1.2616)}, 0), ((), {}, 1)],
)
def test_scale_auto_is_settled_or_costs_nothing(settings, mount, capsys, trained_on, scales, faults):
    """A checkpoint that does not say what it learned from stops a strict run, and costs another the scale alone."""
    mount("new", None)
    folder = settings.input_dir / CHECKPOINTS["new"]
    folder.mkdir(parents=True)
    card = Card("unet", UNET, Preprocessing(region="windows", roi_size=32), 0.5, trained_on)
    save_checkpoint(folder / "a.safetensors", create_model("unet", **UNET), card)
    settings = dataclasses.replace(settings, inference=Inference(scale="auto"))
    if faults:
        with pytest.raises(InputError, match="a scale from voxel sizes needs"):
            run_kernel(settings)
    run_kernel(dataclasses.replace(settings, strict=False))
    record = json.loads(settings.submission_path.with_suffix(".json").read_text())
    inference = record["settings"]["inference"]
    assert (inference["scale"], inference["scales"], len(record["faults"])) == (1.0, scales, faults)
    assert settings.submission_path.read_text().count("\n") == 6


def test_a_kidney_of_no_readable_slice_leaves_no_submission(settings, mount):
    mount("old", "old")
    path = settings.input_dir / COMPETITION["old"] / "test" / "kidney_6" / "images" / "0006.tif"
    path.write_bytes(b"II*\0")
    with pytest.raises(InputError, match="0006.tif"):
        run_kernel(settings)
    assert not settings.submission_path.exists()


@pytest.mark.parametrize("axes", ["z", pytest.param("zyx", marks=pytest.mark.slow)])
@pytest.mark.parametrize("fault", [None, "killed"])
def test_several_devices_share_the_slices_and_a_lost_one_costs_no_row(settings, mount, monkeypatch, capfd, axes, fault):
    """Two processes on the CPU in the place of two GPUs; the second may die before it has done anything."""
    mount("new", "new")
    settings = dataclasses.replace(settings, strict=False, inference=dataclasses.replace(settings.inference, axes=axes))
    run_kernel(settings)
    alone = settings.submission_path.read_bytes()
    monkeypatch.setattr(submit, "find_devices", lambda device: ["cpu", "cpu:0"])
    start = submit.start_workers

    def start_and_kill(*arguments):
        processes = start(*arguments)
        processes[0].kill()
        return processes

    if fault:
        monkeypatch.setattr(submit, "start_workers", start_and_kill)
    capfd.readouterr()
    run_kernel(settings)
    output = capfd.readouterr().out
    assert settings.submission_path.read_bytes() == alone, output
    assert ("worker 1: ended with exit code -9" in output) == bool(fault)
    assert ("no faults" in output.splitlines()[-2]) == (not fault)
    parts = json.loads(settings.submission_path.with_suffix(".json").read_text())["processes"]
    assert [each["device"] for each in parts] == ["cpu", "cpu:0"]
    assert sum(each["rows"] for each in parts) == (2 if fault else 5)  # kidneys of 2 and 3 slices
    assert parts[1]["rows"] == (0 if fault else 3)
    left = sorted(path.name for path in settings.submission_path.parent.iterdir())
    assert left == ["input", "submission.csv", "submission.json"]


def test_without_the_memory_for_more_one_input_goes_through_at_a_time(settings, mount, monkeypatch, capsys):
    mount("new", "new")
    settings = dataclasses.replace(settings, strict=False)
    run_kernel(settings)
    rows = settings.submission_path.read_bytes()
    monkeypatch.setattr(submit, "machine_memory", lambda *_: Memory(0, 0, 10**15))
    run_kernel(settings)
    assert "choose a smaller batch_size; one input at a time, axes z" in capsys.readouterr().out
    assert settings.submission_path.read_bytes() == rows


def test_leaving_three_axes_keeps_the_views(settings, mount, tmp_path):
    """Where there is no scratch folder the masks are those along z, with all views."""
    mount("new", "new")
    checkpoint_paths = find_checkpoints(settings.input_dir, settings.checkpoint_source)
    (volume, *_) = find_volumes(settings.input_dir / COMPETITION["new"])
    predictors = load_predictors(checkpoint_paths, settings.inference)
    (_, probability), *_ = predict_probabilities(volume, predictors, settings.inference)
    threshold = probability.quantile(0.9).item()  # of untrained models, for masks that are not empty
    rows = {}
    for name, changes in {
        "z, flips": {"tta": "flips"},
        "z": {},
        "no scratch": {"tta": "flips", "axes": "zyx", "scratch_dir": str(tmp_path / "missing")},
    }.items():
        inference = dataclasses.replace(settings.inference, threshold=threshold, **changes)
        run_kernel(dataclasses.replace(settings, strict=False, inference=inference))
        rows[name] = settings.submission_path.read_bytes()
    assert rows["no scratch"] == rows["z, flips"] != rows["z"]
