"""Where a submission comes from."""

import hashlib
import json

import pytest
import torch

from sennet_kaggle.checkpoint import Card
from sennet_kaggle.config import Preprocessing
from sennet_kaggle.provenance import (
    Stopwatch,
    describe_checkpoint,
    describe_machine,
    format_provenance,
    hash_package,
    to_json,
)


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


def test_json_and_log_say_the_same():
    provenance = {
        "package_sha256": "abc",
        **describe_machine([torch.device("cpu")]),
        "checkpoints": [{"a": 1}, {"b": 2}],
    }
    assert json.loads(to_json(provenance)) == provenance
    lines = format_provenance(provenance).splitlines()
    assert lines[0] == "package_sha256: abc" and lines[-2:] == ['checkpoints: {"a": 1}', 'checkpoints: {"b": 2}']
    assert provenance["versions"]["torch"] == torch.__version__.split("+")[0]


def test_a_stage_that_fails_is_timed_too():
    watch = Stopwatch()
    with pytest.raises(ValueError), watch.stage("load"):
        raise ValueError
    with watch.stage("segment"):
        pass
    assert list(watch.seconds) == ["load", "segment"]
