"""The recipe for the full data: sound settings, and every command of its page, in miniature."""

import re
import sys

import numpy as np
import pandas as pd
import pytest
import recipe_in_miniature
from recipe_in_miniature import PAGE, commands, shortened, with_gaps

from sennet_kaggle.data.volume import open_volume, open_volumes
from sennet_kaggle.models.checkpoint import read_card
from sennet_kaggle.studies.experiments import RECIPE
from sennet_kaggle.submission.submission import validate_submission
from sennet_kaggle.training.training_model import check_model
from sennet_kaggle.training.training_state import check_settings

KIDNEYS = {"kidney_1_dense", "kidney_1_voi", "kidney_2", "kidney_3_sparse", "kidney_3_dense"}


@pytest.mark.parametrize("name", RECIPE)
def test_its_settings_agree(name):
    training = RECIPE[name]
    check_settings(training)
    assert training.held_out_volumes == ("kidney_3_dense",) and "kidney_3_sparse" not in training.train_volumes


@pytest.mark.parametrize("name", ["full-16gb", "full-8gpu"])
def test_the_model_takes_and_gives_what_the_settings_say(name):
    check_model(RECIPE[name])


def test_the_second_stage_goes_on_with_the_model_of_the_first():
    for name in ("full-16gb", "full-8gpu"):
        first, second = RECIPE[name], RECIPE[f"{name}-all"]
        assert second.model_arguments == first.model_arguments and second.preprocessing == first.preprocessing
        assert {*second.train_volumes} - {*first.train_volumes} == {"kidney_2"}


def test_labels_with_gaps():
    """Of ten vessel pixels in a row the first six or seven stay, the grey values stay all."""
    mask = np.ones((1, 10), bool)
    ((grey, kept),) = with_gaps([(np.arange(10).reshape(1, 10), mask)], 0.65)
    assert kept.sum() == 6 and kept[0, :6].all() and grey.tolist() == [[*range(10)]]


def test_commands_are_shortened_where_they_train():
    assert shortened("python -m sennet_kaggle train a").startswith("python -m sennet_kaggle train a --model-arguments ")
    assert shortened("python -m sennet_kaggle score") == "python -m sennet_kaggle score"


def test_the_page_names_its_experiments_and_kidneys():
    text = " ".join(commands())
    assert {name for name in RECIPE if re.search(rf"train {name} ", text)} == {
        "full-16gb",
        "full-8gpu",
        "full-16gb-all",
    }
    assert all(kidney in text for kidney in KIDNEYS)
    assert "full-8gpu-all" in PAGE.read_text()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="its commands are a shell's")
def test_the_recipe_in_miniature(tmp_path):
    recipe_in_miniature.run(tmp_path)
    runs = tmp_path / "runs"
    learned = {
        name: {slice_id.rpartition("_")[0] for slice_id in read_card(runs / name / "checkpoint.safetensors").trained_on}
        for name in ("first", "first-8", "second", "final")
    }
    assert learned["first"] == learned["first-8"] == {"kidney_1_dense", "kidney_1_voi"}
    assert learned["second"] == {"kidney_1_dense", "kidney_1_voi", "kidney_2"} and learned["final"] == KIDNEYS
    assert 0 <= pd.read_csv(runs / "second" / "metrics.csv")["held_out_surface_dice"].iloc[-1] <= 1
    sparse = open_volume(tmp_path / "DATA/train/kidney_3_sparse")
    assert len(open_volume(tmp_path / "DATA/train/kidney_3_dense")) < len(sparse)
    submission = tmp_path / "dry-run" / "submission.csv"
    assert validate_submission(submission, open_volumes(tmp_path / "DATA", "test")) == []
    assert 'axes="zyx"' in (tmp_path / "push/kernel/sennet.ipynb").read_text().replace('\\"', '"')
    assert [path.name for path in (tmp_path / "push/kernel/checkpoints").glob("*.safetensors")] == ["full.safetensors"]
