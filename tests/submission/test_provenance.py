"""Where a submission comes from."""

import dataclasses
import hashlib
import json
import platform

import pytest
import torch

from sennet_kaggle.config import Inference, Preprocessing
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, save_checkpoint
from sennet_kaggle.submission.provenance import (
    Stopwatch,
    describe_checkpoint,
    describe_machine,
    format_provenance,
    hash_file,
    hash_package,
    read_origin,
    to_json,
    write_origin,
)
from sennet_kaggle.submission.submission import write_submission


def test_the_package_hash_follows_names_and_contents(tmp_path):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "unet.py").write_text("A = 1\n")
    first = hash_package(tmp_path)
    (tmp_path / "notes.txt").write_text("no module")
    assert hash_package(tmp_path) == first
    (tmp_path / "models" / "unet.py").rename(tmp_path / "unet.py")
    renamed = hash_package(tmp_path)
    (tmp_path / "unet.py").write_text("A = 2\n")
    assert len({first, renamed, hash_package(tmp_path)}) == 3


def test_a_checkpoint_by_hash_and_card(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(b"weights")
    described = describe_checkpoint(path, Card("unet", {}, Preprocessing(), 0.4))
    assert described["sha256"] == hashlib.sha256(b"weights").hexdigest()
    assert described["card"]["threshold"] == 0.4


def provenance_of(inference, **changes):
    cards = [Card("unet", {}, Preprocessing(), 0.4, trained_on=("k_0000",)), Card("sam", {}, Preprocessing(), 0.5)]
    checkpoints = [
        {"file": f"{card.model}.safetensors", "sha256": 64 * str(at), "card": dataclasses.asdict(card)}
        for at, card in enumerate(cards)
    ]
    provenance = {
        "package_sha256": 64 * "a",
        "settings": {"inference": dataclasses.asdict(inference)},
        "checkpoints": checkpoints,
        **describe_machine([torch.device("cpu")]),
        **changes,
    }
    return json.loads(to_json(provenance))


def test_the_json_has_everything_and_the_log_a_few_lines_of_words():
    provenance = provenance_of(Inference(tta="flips"), devices={"cpu": "x86_64"})
    assert provenance["checkpoints"][0]["card"]["trained_on"] == ["k_0000"]
    assert provenance["versions"]["torch"] == torch.__version__.split("+")[0]
    assert format_provenance(provenance).splitlines() == [
        "package: sha256 aaaaaaaaaaaa",
        "model: unet.safetensors (000000000000), unet, its threshold 0.4",
        "model: sam.safetensors (111111111111), sam, its threshold 0.5",
        "device: cpu (x86_64), float32",
        f"versions: Python {platform.python_version()}, torch {provenance['versions']['torch']}",
        "settings: views flips (none for sam), axes z, average probability, threshold 0.45",
    ]


@pytest.mark.parametrize(
    ("inference", "devices", "line"),
    [
        (Inference(), {"cuda:0": "Tesla T4", "cpu": "x86_64"}, "device: cuda:0 (Tesla T4), cpu (x86_64), float16"),
        (Inference(precision="bfloat16"), {"cpu": "x86_64"}, "device: cpu (x86_64), bfloat16"),
        (Inference(threshold=0.2, tta="d4", axes="zyx"), {}, "settings: views d4 (none for sam), axes zyx, average"),
        (Inference(threshold=0.2), {}, "average probability, threshold 0.2"),
    ],
)
def test_the_log_names_device_precision_and_settings(inference, devices, line):
    assert line in format_provenance(provenance_of(inference, devices=devices))


def test_a_stage_that_fails_is_timed_too():
    watch = Stopwatch()
    with pytest.raises(ValueError), watch.stage("load"):
        raise ValueError
    with watch.stage("segment"):
        pass
    assert list(watch.seconds) == ["load", "segment"]


def test_what_made_a_submission_holds_for_that_csv_alone(tmp_path):
    path, submission_path = tmp_path / "a.safetensors", tmp_path / "s.csv"
    arguments = {"in_channels": 1, "widths": [4], "bottleneck": 4}
    card = Card("unet", arguments, Preprocessing(mean=(0.5,), std=(0.1,)), 0.4, trained_on=("k_0000",))
    save_checkpoint(path, create_model("unet", **arguments), card)
    write_submission(submission_path, [("k_0000", "1 0")])
    write_origin(
        submission_path, "predict", [path], Inference(tta="d4", overlap=0.5, extra_scales=(2.0, 0.5)), {"k": "stamp"}
    )
    origin = read_origin(submission_path)
    assert origin.cards == [card] and origin.checkpoints == {hash_file(path): "a.safetensors"}
    assert (origin.made_by, origin.inference, origin.images) == (
        "predict",
        Inference(tta="d4", overlap=0.5, extra_scales=(2.0, 0.5)),
        {"k": "stamp"},
    )
    assert (origin.devices, origin.seconds, origin.precision) == ({}, {}, "float32")
    expected = "views d4, axes z, average probability, threshold 0.4, extra scales 2 and 0.5, overlap 0.5"
    assert origin.describe() == f"by a.safetensors ({hash_file(path)[:12]}); {expected}"
    write_submission(submission_path, [("k_0000", "1 1")])
    assert read_origin(submission_path) is None
    assert read_origin(tmp_path / "other.csv") is None


def test_a_submission_says_device_and_seconds_as_the_notebook_does(tmp_path):
    write_submission(tmp_path / "s.csv", [("k_0000", "1 0")])
    seconds, devices = {"load": 1.5, "segment": 4.0}, [torch.device("cpu")]
    written = write_origin(tmp_path / "s.csv", "predict", [], Inference(precision="bfloat16"), {}, devices, seconds)
    origin = read_origin(tmp_path / "s.csv")
    assert (origin.devices, origin.seconds) == ({"cpu": platform.machine()}, seconds)
    assert origin.precision == "bfloat16"
    notebook = {"package_sha256", "settings", "checkpoints", "versions", "devices", "system", "seconds"}
    assert notebook | {"submission_sha256"} <= json.loads((tmp_path / "s.json").read_text()).keys()
    assert f"device: cpu ({platform.machine()}), bfloat16" in format_provenance(written)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"checkpoints": 3, "package_sha256": ""}', '{"notes": "mine"}'])
def test_a_json_that_says_nothing_of_a_submission(tmp_path, text):
    write_submission(tmp_path / "s.csv", [("k_0000", "1 0")])
    (tmp_path / "s.json").write_text(text)
    assert read_origin(tmp_path / "s.csv") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, "by a.safetensors (abcdef); views flips, axes z, average probability, threshold 0.4"),
        ({"dropped": ["flips"]}, "threshold 0.4; dropped for lack of time: flips"),
        ({"dropped": None}, None),
        ({"images": 3}, None),
        ({"settings": {"inference": {"tta": "flips", "threshold": "low"}}}, None),
        ({"settings": {"inference": {"tta": "all"}}}, None),
    ],
    ids=["as it was", "dropped", "no list", "no images", "no threshold", "no views"],
)
def test_the_json_of_an_earlier_notebook(tmp_path, change, said):
    write_submission(tmp_path / "s.csv", [("k_0000", "1 0")])
    card = dataclasses.asdict(Card("unet", {}, Preprocessing(), 0.4))
    del card["image_digests"]
    fields = {
        "package_sha256": "abc",
        "settings": {"inference": {"tta": "flips"}},
        "checkpoints": [{"file": "a.safetensors", "sha256": "abcdef", "card": card}],
    }
    (tmp_path / "s.json").write_text(json.dumps(fields | change))
    origin = read_origin(tmp_path / "s.csv")
    assert origin is None if said is None else origin.describe().endswith(said)


def test_a_json_of_something_else_stays(tmp_path, caplog):
    write_submission(tmp_path / "s.csv", [("k_0000", "1 0")])
    (tmp_path / "s.json").write_text('{"notes": "mine"}')
    write_origin(tmp_path / "s.csv", "predict", [], Inference(), {})
    assert (tmp_path / "s.json").read_text() == '{"notes": "mine"}' and "s.json is something else" in caplog.text
    write_submission(tmp_path / "t.json", [("k_0000", "1 0")])
    write_origin(tmp_path / "t.json", "predict", [], Inference(), {})
    assert (tmp_path / "t.json").read_text().startswith("id,rle")


def test_a_submission_whose_json_would_have_too_long_a_name_is_whole(tmp_path, caplog):
    path = tmp_path / ("a" * 251 + ".csv")
    path.write_text("id,rle\n")
    write_origin(path, "predict", [], Inference(), {})
    assert "File name too long" in caplog.text and "it will not be known what made" in caplog.text
    assert list(tmp_path.iterdir()) == [path]
