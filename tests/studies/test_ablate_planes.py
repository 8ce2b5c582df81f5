"""The comparison of planes on tiny synthetic kidneys: what is trained, that it goes on, and what the table says."""

import pandas as pd
import pytest

from sennet_kaggle.data.phantom import Phantom
from sennet_kaggle.errors import InputError
from sennet_kaggle.studies import ablate_planes as module
from sennet_kaggle.studies.ablate_planes import MODELS, compare_planes, describe

TINY = {"model_arguments": {"widths": [4], "bottleneck": 4}, "window_size": 32, "epoch_slices": 2, "batch_size": 2}


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(module, "LEARNED", Phantom((33, 64, 64), seed=1))
    monkeypatch.setattr(module, "TEST", Phantom((3, 64, 64), seed=2))
    monkeypatch.setattr(module, "MODELS", dict(list(MODELS.items())[2:]))


@pytest.mark.slow
def test_every_model_is_trained_and_scored_once(small, tmp_path, monkeypatch):
    path = compare_planes(tmp_path, (3,), TINY)
    results = pd.read_csv(tmp_path / "planes.csv")
    assert len(results) == 2 * 2 * 5 and set(results["seed"]) == {3} and results["surface_dice"].between(0, 1).all()
    text = path.read_text()
    assert [line.split(" | ")[0] for line in text.splitlines()[2:]] == [f"| {name}" for name in list(MODELS)[2:]]
    monkeypatch.setattr(module, "score", None)
    assert compare_planes(tmp_path, (3,), TINY).read_text() == text
    with pytest.raises(InputError, match="holds a run with epoch_slices 2, now it is 4"):
        compare_planes(tmp_path, (3,), TINY | {"epoch_slices": 4})


def test_the_table_by_hand():
    """Two seeds: 0.2 and 0.4 at threshold 0.5, better by 0.1 at 0.3; only a model with both axes has a row."""
    name, other = list(MODELS)[:2]
    rows = [
        {"model": name, "seed": seed, "axes": axes, "threshold": threshold, "surface_dice": 0.2 + 0.2 * seed + more}
        for seed in (0, 1)
        for axes in ("z", "zyx")
        for threshold, more in ((0.3, 0.1), (0.5, 0.0))
    ]
    rows.append({"model": other, "seed": 0, "axes": "z", "threshold": 0.5, "surface_dice": 1.0})
    half = "0.300 (0.200-0.400) | 0.400 (0.300-0.500) at 0.3"
    assert describe(pd.DataFrame(rows)).splitlines()[2:] == [f"| {name} | 2 | {half} | {half} |"]


def test_one_thing_is_changed_at_a_time():
    assert [set(changes) for changes in MODELS.values()] == [
        set(),
        {"planes"},
        {"preprocessing"},
        {"planes", "preprocessing"},
    ]
