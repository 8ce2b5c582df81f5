"""The training loop on tiny kidneys: going on after a kill, several processes, accumulation, bad numbers, results."""

import dataclasses
import datetime
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from conftest import REPOSITORY, write_tiff
from torch import multiprocessing

from sennet_kaggle.__main__ import main
from sennet_kaggle.config import DEFAULT_INFERENCE, Inference, Preprocessing, Training
from sennet_kaggle.data.dataset import SliceDataset
from sennet_kaggle.data.volume import open_volume, open_volumes
from sennet_kaggle.errors import InputError
from sennet_kaggle.inference.loading import create_predictor, load_predictors
from sennet_kaggle.inference.predict import predict_masks, predict_probabilities
from sennet_kaggle.inference.probability import save_probability
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import load_checkpoint, read_card
from sennet_kaggle.scoring.metrics import dice_counts, dice_from_counts
from sennet_kaggle.studies.experiments import EXPERIMENTS
from sennet_kaggle.training import train
from sennet_kaggle.training.batches import passes, plan_batches
from sennet_kaggle.training.train import fit
from sennet_kaggle.training.training_data import split
from sennet_kaggle.training.training_state import STATE_NAME, TrainingState, create_schedule

TINY_UNET = {"widths": [4, 8], "bottleneck": 8}
# With dropout and stochastic depth, so that the random numbers must go on too.
TINY_SEGFORMER = {"hidden_sizes": [8, 16, 40, 64], "depths": [1, 1, 1, 1], "decoder_hidden_size": 16}
TINY = Training(
    model_arguments=TINY_UNET,
    preprocessing=Preprocessing(roi_size=32),
    train_volumes=("k",),
    held_out_slices=("k_0001",),
    epochs=3,
    evaluate_every=1,
    batch_size=2,
    workers=0,
)


@pytest.fixture
def kidneys(tmp_path, write_kidney):
    """A folder with kidney k of six slices, the last without a label."""
    write_kidney(tmp_path / "data" / "train" / "k", depth=6, size=(50, 40))
    (tmp_path / "data" / "train" / "k" / "labels" / "0005.tif").unlink()
    return tmp_path / "data"


def weights(output_dir) -> dict[str, torch.Tensor]:
    """Of the last epoch, in full precision."""
    return torch.load(output_dir / "training-state.pt", weights_only=True)["model"]


def history(output_dir) -> pd.DataFrame:
    return pd.read_csv(output_dir / "metrics.csv").drop(columns="seconds")


def assert_same_run(output_dir, expected_dir):
    pd.testing.assert_frame_equal(history(output_dir), history(expected_dir), check_exact=True)
    ours, theirs = weights(output_dir), weights(expected_dir)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    checkpoints = [(folder / "checkpoint.safetensors").read_bytes() for folder in (output_dir, expected_dir)]
    assert checkpoints[0] == checkpoints[1]


def test_what_a_run_leaves(kidneys, tmp_path, capsys):
    out = tmp_path / "out"
    path = fit(TINY, kidneys, out)
    table = pd.read_csv(out / "metrics.csv")
    assert table["epoch"].tolist() == [1, 2, 3]
    assert {"loss", "dice_soft", "held_out_dice_soft", "held_out_dice", "threshold", "learning_rate"} < {*table}
    card = read_card(path)
    best = table.loc[table["held_out_dice"].idxmax()]
    assert card.scores == pytest.approx({"held_out_dice_pooled": best["held_out_dice"], "epoch": best["epoch"]})
    assert card.threshold == best["threshold"]
    assert card.trained_on == ("k_0000", "k_0002", "k_0003", "k_0004") and card.training["held_out"] == ["k_0001"]
    for picture in ("curves.png", "predictions.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    assert "4 slices to learn from, 1 held out (k_0001), 1 unlabelled in k left out" in capsys.readouterr().out
    load_checkpoint(path)


def test_tensorboard_has_the_history(kidneys, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    fit(TINY, kidneys, tmp_path / "out")
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    logged = [(event.step, event.value) for event in events.Scalars("loss")]
    expected = history(tmp_path / "out")
    assert [step for step, _ in logged] == expected["epoch"].tolist()
    np.testing.assert_allclose([value for _, value in logged], expected["loss"], rtol=1e-6)


class Killed(BaseException):
    """Nothing in the loop may catch it or tidy up after it."""


def killed_in(monkeypatch, owner, name, call):
    """Makes the named function die at its n-th call, once."""
    original, calls = getattr(owner, name), []

    def dying(*args, **kwargs):
        calls.append(name)
        if len(calls) == call:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, dying)


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [
        pytest.param(train, "_check_finite", 3, id="middle of epoch 2"),
        pytest.param(train, "validate", 2, id="epoch 2 trained, not validated"),
        pytest.param(TrainingState, "finish_epoch", 2, id="epoch 2 validated, not saved"),
        pytest.param(torch, "save", 2, id="while epoch 2 is saved"),
        pytest.param(train, "train_one_epoch", 3, id="after epoch 2"),
        pytest.param(train, "draw", 1, id="before the pictures"),
    ],
)
@pytest.mark.parametrize("model", ["unet", pytest.param("segformer", marks=pytest.mark.slow)])
def test_killed_and_gone_on(kidneys, tmp_path, monkeypatch, model, owner, name, call):
    changes = {
        "unet": {"model_arguments": TINY_UNET, "ema_decay": 0.9},
        "segformer": {"model_arguments": TINY_SEGFORMER},
    }
    training = dataclasses.replace(TINY, model=model, **changes[model])
    fit(training, kidneys, tmp_path / "whole")
    killed_in(monkeypatch, owner, name, call)
    with pytest.raises(Killed):
        fit(training, kidneys, tmp_path / "killed")
    fit(training, kidneys, tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert (tmp_path / "killed" / "predictions.png").is_file()


SUICIDE = """
import os, signal, sys
from sennet_kaggle.training import train
from sennet_kaggle.__main__ import main
steps, check = [], train._check_finite
def check_and_die(*args):
    steps.append(args)
    if len(steps) == 5:  # two steps an epoch
        os.kill(os.getpid(), signal.SIGKILL)
    check(*args)
train._check_finite = check_and_die
main(sys.argv[1:])
"""
COMMAND = [
    *("train", "unet-dice-bce", "--data-dir", "data", "--train-volumes", "k", "--held-out-fraction", "0"),
    *("--model-arguments", '{"widths": [4, 8], "bottleneck": 8}', "--roi-size", "32", "--learning-rate", "1e-2"),
    *("--batch-size", "4", "--epoch-slices", "8", "--epochs", "4", "--workers", "2", "--augment"),
]


def run_python(arguments, folder):
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.mark.slow
def test_kill_9(kidneys, tmp_path, monkeypatch):
    """A real process with reading workers, dead in the third epoch; the same command goes on."""
    monkeypatch.chdir(tmp_path)
    died = run_python(["-c", SUICIDE, *COMMAND, "--output-dir", "killed"], tmp_path)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert len(history(tmp_path / "killed")) == 2
    assert main([*COMMAND, "--output-dir", "killed"]) == 0
    assert main([*COMMAND, "--output-dir", "whole"]) == 0
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.slow
def test_two_processes_train_as_one(kidneys, tmp_path, monkeypatch):
    """torchrun with two CPU processes (gloo): BatchNorm, Dice and the mean loss are those of the whole batch."""
    monkeypatch.chdir(tmp_path)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "sennet_kaggle"]
    command = [*COMMAND, "--epoch-slices", "9", "--epochs", "3"]  # batches of 4, 4 and 1
    two = run_python([*torchrun, *command, "--output-dir", "two"], tmp_path)
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("best checkpoint: ") == 1
    assert main([*command, "--output-dir", "one"]) == 0
    ours, theirs = history(tmp_path / "two"), history(tmp_path / "one")
    assert len(ours) == 3 and theirs["loss"].iloc[-1] < theirs["loss"].iloc[0]
    # Equal but for rounding; each step of Adam makes that larger, above all where a gradient is nearly 0.
    for column in ("loss", "dice_soft"):
        np.testing.assert_allclose(ours[column][:2], theirs[column][:2], rtol=1e-6)
        np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-4)
    for name, tensor in weights(tmp_path / "two").items():
        expected = weights(tmp_path / "one")[name].float()
        assert (tensor - expected).norm() <= 0.05 * expected.norm(), name


def test_waiting_while_the_first_process_validates(tmp_path):
    """The time that the others wait is ours, not the half hour that is torch's default."""
    accelerator = train.create_accelerator(TINY, tmp_path)
    assert accelerator.init_handler.timeout >= datetime.timedelta(days=1)


@pytest.mark.slow
def test_the_process_group_waits_as_long(tmp_path):
    script = tmp_path / "group.py"
    script.write_text(
        "import pathlib, torch, torch.distributed as dist\n"
        "from sennet_kaggle import config\nfrom sennet_kaggle.training import train\n"
        "train.create_accelerator(config.Training(precision='float32'), pathlib.Path('out'))\n"
        "days = dist.group.WORLD._get_backend(torch.device('cpu')).options._timeout.days\n"
        "pathlib.Path(f'{dist.get_rank()}.txt').write_text(str(days))\n"  # what two processes print can be mixed
    )
    run = run_python(["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)], tmp_path)
    assert [path.read_text() for path in tmp_path.glob("*.txt")] == ["1", "1"], run.stderr


def test_accumulated_passes_are_one_step(kidneys, tmp_path, monkeypatch):
    """Without BatchNorm, the passes of a step give the gradient of its whole batch, an odd tail included."""
    monkeypatch.setattr(train, "create_initial_model", lambda _: torch.nn.Conv2d(3, 1, 3, padding=1))
    monkeypatch.setattr(train, "draw", lambda *_: None)
    training = dataclasses.replace(TINY, loss="bce", batch_size=3, held_out_slices=(), epochs=2)
    fit(training, kidneys, tmp_path / "one")
    fit(dataclasses.replace(training, accumulate=2), kidneys, tmp_path / "two")
    np.testing.assert_allclose(history(tmp_path / "two")["loss"], history(tmp_path / "one")["loss"], rtol=1e-6)
    torch.testing.assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"))


def _train_convolution(rank, training, folder):
    """One of two processes on the CPU, as torchrun would start them."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    train.create_initial_model, train.draw = initial_convolution, lambda *_: None
    fit(training, folder / "data", folder / "two")


def initial_convolution(_):
    torch.manual_seed(0)
    return torch.nn.Conv2d(3, 1, 3, padding=1)


@pytest.mark.slow
def test_accumulated_passes_of_two_processes_are_one_step(kidneys, tmp_path, monkeypatch):
    """Gradients are exchanged at a step's last pass alone, when those of its other passes are in them.

    Five slices, so steps of 4 and 1: two passes of a slice per process, then one that the second only attends.
    """
    training = dataclasses.replace(
        TINY, loss="bce", held_out_slices=(), epochs=2, batch_size=4, accumulate=2, learning_rate=0.1
    )
    multiprocessing.spawn(_train_convolution, args=(training, tmp_path), nprocs=2)
    monkeypatch.setattr(train, "create_initial_model", initial_convolution)
    monkeypatch.setattr(train, "draw", lambda *_: None)
    fit(training, kidneys, tmp_path / "one")
    np.testing.assert_allclose(history(tmp_path / "two")["loss"], history(tmp_path / "one")["loss"], rtol=1e-6)
    torch.testing.assert_close(weights(tmp_path / "two"), weights(tmp_path / "one"))


def test_windows_and_neighbours(kidneys, tmp_path):
    """Native resolution and 2.5D through the same loop, from windows to the kept checkpoint's masks."""
    preprocessing = Preprocessing(region="windows", roi_size=32, offsets=(-1, 0, 1))
    training = dataclasses.replace(TINY, preprocessing=preprocessing, window_size=24, epoch_slices=9, evaluate_every=3)
    assert split(training, kidneys)[0][0][0].shape == (3, 24, 24)
    path = fit(training, kidneys, tmp_path / "out")
    assert read_card(path).preprocessing == preprocessing
    assert history(tmp_path / "out")["held_out_dice"].notna().tolist() == [False, False, True]
    (volume,) = open_volumes(kidneys, "train")
    masks = dict(predict_masks(volume, load_predictors([path], Inference()), Inference()))
    assert {mask.shape for mask in masks.values()} == {(50, 40)}


def test_a_run_with_synthetic_windows_goes_on(kidneys, tmp_path, monkeypatch):
    """And differs from one without, which its folder refuses."""
    preprocessing = Preprocessing(region="windows", roi_size=32)
    monkeypatch.setattr(train, "draw", lambda *_: None)
    plain = dataclasses.replace(TINY, preprocessing=preprocessing, held_out_slices=(), epochs=2)
    training = dataclasses.replace(plain, synthetic=0.5)
    path = fit(training, kidneys, tmp_path / "whole")
    assert read_card(path).training["synthetic"] == 0.5
    with monkeypatch.context() as patch:
        killed_in(patch, train, "_check_finite", 4)
        with pytest.raises(Killed):
            fit(training, kidneys, tmp_path / "killed")
    fit(training, kidneys, tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    assert fit(plain, kidneys, tmp_path / "plain").read_bytes() != path.read_bytes()
    with pytest.raises(InputError, match="holds a run with synthetic 0.5, now it is 0.0"):
        fit(plain, kidneys, tmp_path / "whole")


@pytest.mark.slow
def test_segment_anything_is_trained_validated_and_run(kidneys, tmp_path, monkeypatch):
    """The named experiment on small windows: a stopped run goes on, and its checkpoint segments slices in tiles."""
    named = EXPERIMENTS["sam-finetuned"]
    arguments = {**named.model_arguments, "tile": 2, "detail_width": 4}
    preprocessing = dataclasses.replace(named.preprocessing, roi_size=64)
    torch.save(create_model(named.model, **arguments).state_dict(), tmp_path / "published.pt")
    changes = {"window_size": 16, "epochs": 3, "epoch_slices": 4, "batch_size": 2, "evaluate_every": 3, "workers": 0}
    training = dataclasses.replace(
        named,
        model_arguments=arguments,
        preprocessing=preprocessing,
        train_volumes=("k",),
        held_out_slices=("k_0004",),
        weights_path=str(tmp_path / "published.pt"),
        **changes,
    )
    fit(training, kidneys, tmp_path / "whole")
    killed_in(monkeypatch, train, "train_one_epoch", 3)
    with pytest.raises(Killed):
        fit(training, kidneys, tmp_path / "killed")
    path = fit(training, kidneys, tmp_path / "killed")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")
    (volume,) = open_volumes(kidneys, "train")
    masks = dict(predict_masks(volume, load_predictors([path], Inference()), Inference()))
    assert len(masks) == 6 and {mask.shape for mask in masks.values()} == {(50, 40)}


def test_epochs_repeat_their_windows(kidneys, tmp_path, monkeypatch):
    """Two different epochs, then the same two again, in another order."""
    drawn, dataset = [], SliceDataset.__getitem__

    def remember(self, index):
        pair = dataset(self, index)
        if self.augment:
            drawn.append((self.epoch, index, pair[0].numpy().tobytes()))
        return pair

    monkeypatch.setattr(SliceDataset, "__getitem__", remember)
    training = dataclasses.replace(
        TINY,
        preprocessing=Preprocessing(region="windows", roi_size=16),
        epochs=4,
        distinct_epochs=2,
        epoch_slices=8,
        workers=0,
    )
    fit(training, kidneys, tmp_path / "out")
    epochs = [{(index, image) for epoch, index, image in drawn if epoch == wanted} for wanted in (1, 2, 3, 4)]
    assert epochs[0] == epochs[2] and epochs[1] == epochs[3] and not epochs[0] & epochs[1]
    orders = [[index for epoch, index, _ in drawn if epoch == wanted] for wanted in (1, 3)]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_a_run_of_an_earlier_version_goes_on(kidneys, tmp_path):
    """What it left lacks the settings that have been added since, which are at their defaults."""
    training = dataclasses.replace(TINY, epochs=2)
    fit(dataclasses.replace(training), kidneys, tmp_path / "whole")
    path = tmp_path / "whole" / STATE_NAME
    state = torch.load(path, weights_only=True)
    settings = json.loads(state["settings"])
    assert settings.pop("distinct_epochs") == 0
    torch.save({**state, "settings": json.dumps(settings)}, path)
    fit(training, kidneys, tmp_path / "whole")
    with pytest.raises(InputError, match="holds a run with distinct_epochs 0, now it is 1"):
        fit(dataclasses.replace(training, distinct_epochs=1), kidneys, tmp_path / "whole")


@pytest.mark.parametrize("region", ["whole", "windows"])
def test_outputs_for_every_channel(kidneys, tmp_path, region):
    """Each output learns from the slice that its channel shows; what is held out stays unknown to it."""
    preprocessing = Preprocessing(region=region, roi_size=32, offsets=(-1, 0, 1), outputs="all")
    training = dataclasses.replace(TINY, preprocessing=preprocessing, loss="dice_bce_surface", epoch_slices=8)
    path = fit(training, kidneys, tmp_path / "out")
    model, card = load_checkpoint(path)
    assert card.model_arguments == {"in_channels": 3, "out_channels": 3, **TINY_UNET}
    assert history(tmp_path / "out")[["loss", "dice_soft", "held_out_dice_soft"]].notna().all(axis=None)
    (volume,) = open_volumes(kidneys, "train")
    masks = dict(predict_masks(volume, load_predictors([path], Inference()), Inference()))
    assert len(masks) == 6


def test_unknown_targets_change_nothing(kidneys, tmp_path, monkeypatch):
    """The gradient of an output without a target is exactly 0."""
    preprocessing = Preprocessing(roi_size=32, offsets=(0, 1), outputs="all", mean=(0.5,), std=(0.2,))
    (kidneys / "train" / "k" / "labels" / "0001.tif").unlink()
    (kidneys / "train" / "k" / "labels" / "0003.tif").unlink()
    training = dataclasses.replace(
        TINY, preprocessing=preprocessing, held_out_slices=(), epochs=1, weight_decay=0.0, augment=False
    )  # 0, 2 and 4 have no labelled slice after them
    monkeypatch.setattr(train, "create_initial_model", lambda _: torch.nn.Conv2d(2, 2, 1))
    monkeypatch.setattr(train, "draw", lambda *_: None)
    before = {}
    with monkeypatch.context() as patch:
        train_one_epoch = train.train_one_epoch
        patch.setattr(
            train,
            "train_one_epoch",
            lambda model, *rest: (
                before.update({n: t.clone() for n, t in model.state_dict().items()}) or train_one_epoch(model, *rest)
            ),
        )
        fit(training, kidneys, tmp_path / "out")
    after = weights(tmp_path / "out")
    for name in ("weight", "bias"):
        assert not torch.equal(after[name][0], before[name][0])
        torch.testing.assert_close(after[name][1], before[name][1], rtol=0, atol=0)


@pytest.mark.parametrize("preprocessing", [Preprocessing(roi_size=32), Preprocessing(region="windows", roi_size=32)])
def test_what_is_validated_is_what_predict_writes(kidneys, tmp_path, preprocessing):
    """Held-out slices are scored by what `predict` gives by default, flips and arithmetic included."""
    training = dataclasses.replace(TINY, preprocessing=preprocessing, precision="bfloat16")
    path = fit(training, kidneys, tmp_path / "out")
    assert Inference(**read_card(path).training["judged_with"]) == DEFAULT_INFERENCE != Inference()
    (volume,) = open_volumes(kidneys, "train")
    last = history(tmp_path / "out").iloc[-1]
    model = create_model(training.model, in_channels=3, **training.model_arguments)
    model.load_state_dict(weights(tmp_path / "out"))  # before the file rounds them to float16
    scores = {}
    for inference in (DEFAULT_INFERENCE, Inference()):
        predictor = create_predictor(model, preprocessing, 0.5, inference)
        probability = dict(predict_probabilities(volume, [predictor], inference))["k_0001"].numpy().astype(float)
        mask_gt = volume.label(1)
        scores[inference.tta] = 2 * probability[mask_gt].sum() / (probability.sum() + mask_gt.sum())
    assert scores["flips"] == pytest.approx(last["held_out_dice_soft"], rel=1e-9)
    assert scores["none"] != pytest.approx(last["held_out_dice_soft"], rel=1e-6)


def test_averaged_weights_are_validated_and_kept(kidneys, tmp_path):
    """Two steps an epoch, one epoch: the first step's weights are taken over, the second's share is 1 - 0.9."""
    training = dataclasses.replace(TINY, epochs=1, ema_decay=0.9, schedule="constant", learning_rate=0.1)
    snapshots = []
    finish_step = TrainingState.finish_step

    def watched(state):
        finish_step(state)
        snapshots.append({name: tensor.clone() for name, tensor in state.model.state_dict().items()})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingState, "finish_step", watched)
        path = fit(training, kidneys, tmp_path / "out")
    kept = load_checkpoint(path)[0].state_dict()
    first, second = snapshots
    for name in ("head.bias", "encoders.0.1.running_mean", "encoders.0.1.weight"):
        assert not torch.equal(first[name], second[name])
        torch.testing.assert_close(kept[name], 0.9 * first[name] + 0.1 * second[name])


def test_pseudo_labels_complete_a_sparse_kidney(kidneys, tmp_path):
    """What a model was sure of becomes vessel in training; held-out slices keep their own labels."""
    (volume,) = open_volumes(kidneys, "train")
    sure = np.zeros((50, 40), np.float32)
    sure[10:20, 5:15] = 0.9
    sure[30:40, 5:15] = 0.6
    list(save_probability(tmp_path / "p", volume, [(slice_id, sure) for slice_id in volume.slice_ids]))
    training = dataclasses.replace(
        TINY, pseudo_label_dir=str(tmp_path / "p"), pseudo_label_threshold=0.7, augment=False
    )
    train_set, held_out = split(training, kidneys)
    for volume, z in train_set.slices.values():
        expected = super(type(volume), volume).label(z) | (sure > 0.7)
        np.testing.assert_array_equal(volume.label(z), expected)
        assert not super(type(volume), volume).label(z)[10:20, 5:15].all()
    assert len(train_set) == 4  # the slice without a label stays without
    assert not any(volume.label(z)[10:20, 5:15].all() for volume, z in held_out.slices.values())
    assert fit(training, kidneys, tmp_path / "out").is_file()


def test_pseudo_labels_of_another_kidney(kidneys, tmp_path, write_kidney):
    write_kidney(tmp_path / "q", depth=1, size=(50, 40))
    other = open_volume(tmp_path / "q")
    nothing = np.zeros((50, 40), np.float32)
    list(save_probability(tmp_path / "p", other, [("q_0000", nothing)]))
    with pytest.raises(InputError, match="p has probabilities of q, but the training is on k: predict one of these"):
        fit(dataclasses.replace(TINY, pseudo_label_dir=str(tmp_path / "p")), kidneys, tmp_path / "out")
    write_kidney(tmp_path / "k", depth=1, size=(50, 40))
    list(save_probability(tmp_path / "p", open_volume(tmp_path / "k"), [("k_0000", nothing)]))
    with pytest.raises(InputError, match="p has other slices of k than the data folder: predict again"):
        fit(dataclasses.replace(TINY, pseudo_label_dir=str(tmp_path / "p")), kidneys, tmp_path / "out")


def test_every_precision_of_the_cpu(kidneys, tmp_path):
    fit(dataclasses.replace(TINY, precision="bfloat16"), kidneys, tmp_path / "out")
    assert history(tmp_path / "out")["loss"].notna().all()
    with pytest.raises(InputError, match="precision float16 needs a GPU"):
        fit(dataclasses.replace(TINY, precision="float16"), kidneys, tmp_path / "other")


def test_a_loss_that_is_not_finite_names_step_and_slices(kidneys, tmp_path):
    training = dataclasses.replace(TINY, learning_rate=1e30, schedule="constant", optimizer="adam")
    with pytest.raises(InputError, match=r"the loss is (nan|inf) at step 2 of epoch 1, with k_000\d.*learning rate"):
        fit(training, kidneys, tmp_path / "out")
    assert not (tmp_path / "out" / "checkpoint.safetensors").exists()


def test_other_settings_do_not_go_on(kidneys, tmp_path):
    fit(TINY, kidneys, tmp_path / "out")
    with pytest.raises(InputError, match="holds a run with seed 0, now it is 1: go on with the same settings"):
        fit(dataclasses.replace(TINY, seed=1), kidneys, tmp_path / "out")
    state = tmp_path / "out" / "training-state.pt"
    state.write_bytes(state.read_bytes()[:-500])
    with pytest.raises(InputError, match=r"training-state.pt cannot be gone on from \(.+\): delete it"):
        fit(TINY, kidneys, tmp_path / "out")


def test_a_finished_run_trains_nothing(kidneys, tmp_path, monkeypatch, capsys):
    path = fit(TINY, kidneys, tmp_path / "out")
    before = {name: name.stat().st_mtime_ns for name in (tmp_path / "out").rglob("*") if name.is_file()}
    monkeypatch.setattr(train, "train_one_epoch", None)
    capsys.readouterr()
    assert fit(TINY, kidneys, tmp_path / "out") == path
    assert "already finished, nothing to train: " in capsys.readouterr().out
    assert {name: name.stat().st_mtime_ns for name in before} == before
    (tmp_path / "out" / "metrics.csv").write_text("epoch,loss\n1,0\n")
    fit(TINY, kidneys, tmp_path / "out")
    assert history(tmp_path / "out")["held_out_dice"].notna().all()  # as it was
    path.unlink()
    with pytest.raises(InputError, match="holds a run whose checkpoint.safetensors is missing: put it back, or delete"):
        fit(TINY, kidneys, tmp_path / "out")


def test_a_stopped_run_without_its_checkpoint(kidneys, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        killed_in(patch, train, "train_one_epoch", 3)
        with pytest.raises(Killed):
            fit(TINY, kidneys, tmp_path / "out")
    (tmp_path / "out" / "checkpoint.safetensors").unlink()
    with pytest.raises(InputError, match="checkpoint.safetensors is missing"):
        fit(TINY, kidneys, tmp_path / "out")


@pytest.mark.parametrize(
    "text, expected", [("Read error: Connection reset by peer", InputError), ("bug", RuntimeError)]
)
def test_a_lost_process_is_named_in_a_line(kidneys, tmp_path, monkeypatch, text, expected):
    def lost(*_):
        raise RuntimeError(text)

    monkeypatch.setattr(train, "train_one_epoch", lost)
    with pytest.raises(expected, match="another process of this run has ended" if expected is InputError else "bug"):
        fit(TINY, kidneys, tmp_path / "out")


def test_a_run_of_the_cpu_goes_on_on_a_gpu(kidneys, tmp_path, monkeypatch):
    """Whose gradients are scaled, which the CPU's state knows nothing of."""
    killed_in(monkeypatch, train, "train_one_epoch", 2)
    with pytest.raises(Killed):
        fit(TINY, kidneys, tmp_path / "out")
    earlier = torch.load(tmp_path / "out" / "training-state.pt", weights_only=True)
    state = TrainingState(TINY, tmp_path / "out", create_model("unet", **TINY_UNET), 1)
    state.scaler = torch.amp.GradScaler("cpu")
    state.resume(earlier)
    assert state.epoch == 1 and state.scaler.get_scale() == 2**16


def test_the_scale_of_the_gradients_goes_on(kidneys, tmp_path, monkeypatch):
    """A GPU's float16, on the CPU: the scale doubles at every third of six steps, a run killed after four included."""
    create_accelerator = train.create_accelerator

    def with_scaler(*arguments):
        accelerator = create_accelerator(*arguments)
        accelerator.scaler = torch.amp.GradScaler(accelerator.device.type, init_scale=8.0, growth_interval=3)
        return accelerator

    monkeypatch.setattr(train, "create_accelerator", with_scaler)
    monkeypatch.setattr(train, "draw", lambda *_: None)
    with monkeypatch.context() as patch:
        killed_in(patch, train, "train_one_epoch", 3)
        with pytest.raises(Killed):
            fit(TINY, kidneys, tmp_path / "killed")
    assert saved_scaler(tmp_path / "killed") == (16, 1)
    fit(TINY, kidneys, tmp_path / "killed")
    assert saved_scaler(tmp_path / "killed") == (32, 0)
    fit(TINY, kidneys, tmp_path / "whole")
    assert_same_run(tmp_path / "killed", tmp_path / "whole")


def saved_scaler(output_dir) -> tuple[float, int]:
    """The scale, and the steps since it last changed."""
    scaler = torch.load(output_dir / "training-state.pt", weights_only=True)["scaler"]
    return scaler["scale"], scaler["_growth_tracker"]


def test_a_seed_of_32_bits(kidneys, tmp_path):
    fit(dataclasses.replace(TINY, seed=2**32 - 1, epochs=1), kidneys, tmp_path / "out")
    assert len(history(tmp_path / "out")) == 1


@pytest.mark.parametrize("region", ["whole", "windows"])
def test_what_fails_before_the_first_epoch_leaves_nothing(kidneys, tmp_path, region):
    """A label of three values is found when it is read."""
    write_tiff(kidneys / "train" / "k" / "labels" / "0003.tif", np.arange(2000, dtype=np.uint8).reshape(50, 40))
    training = dataclasses.replace(TINY, preprocessing=Preprocessing(region=region, roi_size=32), workers=0)
    with pytest.raises(InputError, match="0003.tif"):
        fit(training, kidneys, tmp_path / "a" / "b")
    assert not (tmp_path / "a").exists()


def test_one_process_at_a_time_writes_to_a_folder(kidneys, tmp_path):
    """The second is refused while the first is there, and not after it was killed."""
    hold = "import sys; from sennet_kaggle.locking import claim_dir\n"
    hold += "with claim_dir(sys.argv[1]): print('in', flush=True); input()"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    first = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "out")],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert first.stdout.readline() == "in\n"
    with pytest.raises(InputError, match="another process is writing to .*out: wait for it to end, or choose another"):
        fit(TINY, kidneys, tmp_path / "out")
    first.kill()
    first.communicate()
    fit(TINY, kidneys, tmp_path / "out")


def test_positives_weighted_by_the_data(kidneys, tmp_path):
    training = dataclasses.replace(TINY, loss="weighted_bce", loss_arguments={"pos_weight": "data"}, epochs=1)
    train_set, _ = split(training, kidneys)
    fraction = train_set.vessel_fraction()
    assert 0.05 < fraction < 0.2  # a tenth in these kidneys
    assert train._loss_arguments(training, train_set) == {"pos_weight": pytest.approx((1 - fraction) / fraction)}
    fit(training, kidneys, tmp_path / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"accumulate": 0}, "accumulate must be positive"),
        ({"epoch_slices": -1}, "epoch_slices must not be negative, got -1"),
        ({"window_size": 16}, "window_size must be positive and goes with region windows, got 16 and region whole"),
        ({"threshold": -0.1}, "threshold must lie in 0..1"),
        ({"ema_decay": 1.0}, r"ema_decay must lie in 0..1 \(1 excluded\), got 1.0"),
        ({"zoom": (2.0, 0.5)}, "zoom must be two factors in 0.1..10, the smaller first, got"),
        ({"light": -1.0}, "light must not be negative, got -1.0"),
        ({"pseudo_label_threshold": 1.0}, r"pseudo_label_threshold must lie in 0..1 \(1 excluded\), got 1.0"),
        ({"optimizer": "sgd"}, "optimizer must be one of adam, adamw, got 'sgd'"),
        ({"loss": "dise"}, "unknown loss 'dise'"),
        ({"loss_arguments": {"weight": 2}}, "loss 'dice_bce' has no argument 'weight'"),
        ({"train_volumes": ("q",)}, "has no kidney q"),
        ({"train_volumes": ()}, "train_volumes must name at least one kidney to learn from, found none"),
        ({"held_out_fraction": 0.5}, "held_out_slices and held_out_fraction exclude each other"),
        ({"weights_path": "w.pth"}, "weights w.pth are missing"),
    ],
)
def test_bad_settings(kidneys, tmp_path, changes, message):
    with pytest.raises(InputError, match=message):
        fit(dataclasses.replace(TINY, **changes), kidneys, tmp_path / "out")


def test_batches_follow_from_seed_and_epoch():
    training = Training(batch_size=4, epoch_slices=11, seed=3)
    batches = plan_batches(training, slices=5, epoch=2)
    assert [len(batch) for batch in batches] == [4, 4, 3]
    drawn = np.concatenate(batches)
    assert sorted(drawn[:5]) == [0, 1, 2, 3, 4] and sorted(drawn[5:10]) == [5, 6, 7, 8, 9]  # whole rounds
    np.testing.assert_array_equal(np.concatenate(plan_batches(training, 5, 2)), drawn)
    for other in (dataclasses.replace(training, seed=4), training):
        assert not np.array_equal(np.concatenate(plan_batches(other, 5, 2 if other.seed == 4 else 1)), drawn)


def test_passes_of_several_processes():
    def of_process(index, batch, accumulate):
        place = type("Place", (), {"num_processes": 2, "process_index": index})()
        return list(passes(np.array(batch), accumulate, place))

    assert of_process(0, [7, 8, 9, 10], 1) == [([7, 9], 1.0, True)]
    assert of_process(1, [7, 8, 9, 10], 1) == [([8, 10], 1.0, True)]
    assert of_process(0, [7, 8, 9], 1) == [([7, 9], 1.0, True)]
    assert of_process(1, [7, 8, 9], 1) == [([8], 1.0, True)]
    # None left for the second: it takes part with one that does not count, so that the first does not wait in vain.
    assert of_process(1, [7, 8, 9], 2) == [([8], 2 / 3, True), ([9], 1 / 3, False)]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("unet-bce", [1e-4] * 4),
        ("unet-dice-bce", [1e-4, 0.95e-4, 0.95**2 * 1e-4, 0.95**3 * 1e-4]),
        ("segformer-bce", [6e-6] * 4),
    ],
)
def test_learning_rates_of_the_report(name, expected):
    assert learning_rates(EXPERIMENTS[name])[:4] == pytest.approx(expected)


def test_milestones_of_the_report():
    rates = learning_rates(EXPERIMENTS["segformer-ce-dice"])
    assert [rates[epoch] for epoch in (19, 20, 39, 40, 59)] == pytest.approx([6e-6, 6e-7, 6e-7, 6e-8, 6e-8])


def learning_rates(training, steps_per_epoch=2) -> list[float]:
    """At the start of each epoch."""
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], training.learning_rate)
    schedule, rates = create_schedule(training, optimizer, steps_per_epoch), []
    for _ in range(training.epochs):
        rates.append(schedule.get_last_lr()[0])
        for _ in range(steps_per_epoch):
            optimizer.step()
            schedule.step()
    return rates


@pytest.mark.slow
def test_four_real_slices_are_learned_by_heart(data_dir, tmp_path):
    """The whole loop: the report's Dice + BCE at reduced width, a minute or two on two cores."""
    kidney_dir = tmp_path / "train" / "kidney_1_dense"
    for kind in ("images", "labels"):
        (kidney_dir / kind).mkdir(parents=True)
        for stem in ("0414", "0678", "0981", "1331"):
            source = data_dir / "train" / "kidney_1_dense" / kind / f"{stem}.tif"
            (kidney_dir / kind / source.name).symlink_to(source.resolve())
    training = dataclasses.replace(
        EXPERIMENTS["unet-dice-bce"],
        model_arguments={"widths": [8, 16, 32, 64], "bottleneck": 128},
        preprocessing=Preprocessing(),
        held_out_fraction=0.0,
        batch_size=1,
        epochs=60,
        learning_rate=5e-3,
        schedule="one_cycle",
        precision="float32",
        workers=0,
    )
    path = fit(training, tmp_path, tmp_path / "out")
    predictors = load_predictors([path], Inference())
    (volume,) = open_volumes(tmp_path, "train")
    masks = predict_masks(volume, predictors, Inference())
    counts = [dice_counts(volume.label(z), mask) for z, (_, mask) in enumerate(masks)]
    assert dice_from_counts(*np.sum(counts, axis=0).tolist()) > 0.9
