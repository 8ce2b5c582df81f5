"""Training."""

import shlex
import shutil

import numpy as np
from conftest import write_tiff

from sennet_kaggle.models.checkpoint import read_card

from . import TRAIN, Case

_MODEL = """--model-arguments '{"widths": [4], "bottleneck": 8}'"""
_SMALL = f"""{_MODEL} --roi-size 32 --epochs 1 --workers 0 --batch-size 4"""
SMALL = f"{TRAIN} {_SMALL}"
_INIT = """--model-arguments '{"widths": [4, 8], "bottleneck": 8}' --init-from small.safetensors"""
_LABELS = "data/train/kidney_1/labels"


def _train(folder):
    """A finished run in out."""
    from sennet_kaggle.__main__ import main

    assert main(shlex.split(SMALL)) == 0


def _then(change):
    def prepare(folder):
        _train(folder)
        change(folder)

    return prepare


def _swap_labels(folder):
    first, last = (folder / _LABELS / name for name in ("0000.tif", "0002.tif"))
    first_bytes, last_bytes = first.read_bytes(), last.read_bytes()
    first.write_bytes(last_bytes)
    last.write_bytes(first_bytes)


def _without(path):
    return lambda folder: (folder / path).unlink()


def _a_slice_more(folder):
    from sennet_kaggle.data.volume import open_volume

    volume = open_volume(folder / "data/train/kidney_1")
    write_tiff(folder / "data/train/kidney_1/images/0003.tif", volume[1])
    write_tiff(folder / _LABELS / "0003.tif", 255 * volume.label(1).astype("uint8"))


def _without_vessels(folder):
    for path in (folder / _LABELS).iterdir():
        write_tiff(path, np.zeros((40, 31), np.uint8))


def _is_of_unknown_source(folder):
    card = read_card(folder / "out/checkpoint.safetensors")
    assert card.trained_on and not card.says_what_it_learned


def _replace_checkpoint(folder):
    (folder / "out/checkpoint.safetensors").write_bytes((folder / "small.safetensors").read_bytes())


def _is_trained(folder):
    assert (folder / "out/checkpoint.safetensors").is_file() and (folder / "out/predictions.png").is_file()


def _refused(given, options, says, prepare=None, base=SMALL):
    return Case(given, _with(options, base), says, prepare)


def _with(options, base=SMALL):
    """The options come first, where the table shows them."""
    return base.replace(" --data-dir", f" {options} --data-dir", 1) if options else base


COMPARE = "compare --data-dir data --output-dir out --test-volume kidney_1 --experiment unet-bce"
NATIVE = "compare --group native --data-dir data --output-dir out"


TITLE = "Training"
CASES: list[Case] = [
    # What a run is made of.
    Case("a finished run again", SMALL, "already finished, nothing to train", _train, refused=False),
    _refused("a finished run, another label", "", "the image or label of kidney_1_0002", _then(_swap_labels)),
    _refused(
        "a finished run, a label more",
        "",
        "learned from 2 slices, now 3: kidney_1_0003 is new",
        _then(_a_slice_more),
    ),
    _refused(
        "a finished run, a label less",
        "",
        "learned from 2 slices, now 1: kidney_1_0002 is gone",
        _then(_without(f"{_LABELS}/0002.tif")),
    ),
    _refused(
        "a finished run without its checkpoint",
        "",
        "holds a run whose checkpoint.safetensors is missing",
        _then(_without("out/checkpoint.safetensors")),
    ),
    _refused(
        "a finished run, its checkpoint replaced",
        "",
        "not the checkpoint that the finished run",
        _then(_replace_checkpoint),
    ),
    _refused("an output folder that is a file", "", "cannot make the folder out", lambda f: (f / "out").touch()),
    # Settings that no checkpoint could have.
    _refused("offsets without 0", "--offsets -1 1 2", "offsets must have a 0"),
    _refused("a negative std", "--std 1 1 -1", "each channel must have a std above 0"),
    _refused("a mean that is no number", "--mean nan 0 0", "mean must hold finite numbers only"),
    _refused("percentiles crossed", "--low-percentile 99.9", "the percentiles must lie in 0..100, the low one below"),
    _refused("a percentile of 120", "--high-percentile 120", "the percentiles must lie in 0..100"),
    _refused("roi_size 0", "--roi-size 0", "roi_size must be at least 1", base=TRAIN),
    _refused("a roi_size without end", "--roi-size 1000000", "roi_size must be at least 1 and at most", base=TRAIN),
    _refused(
        "a roi_size that the model cannot take",
        "--model segformer --roi-size 16",
        "model 'segformer' cannot take 1 image(s) of 3 x 16 x 16",
        base=TRAIN,
    ),
    _refused(
        "a last batch that BatchNorm cannot average over",
        """--model-arguments '{"widths": [4], "bottleneck": 8}' --roi-size 2 --batch-size 1""",
        "Expected more than 1 value per channel",
        base=TRAIN,
    ),
    _refused("four means for three channels", "--offsets -1 0 1 --mean 0 0 0 0", "mean must have 1 value or 3"),
    _refused("a negative seed", "--seed -1", "seed must lie in 0..4294967295, got -1"),
    _refused("a seed of 2**32", "--seed 4294967296", "seed must lie in 0..4294967295"),
    _refused("a learning rate that is no number", "--learning-rate nan", "learning_rate must hold finite numbers"),
    _refused("an infinite weight decay", "--weight-decay inf", "weight_decay must hold finite numbers only"),
    _refused("a weight decay beyond float32", "--weight-decay 1e300", "weight_decay must hold finite numbers only"),
    _refused("a mean beyond float32", "--mean 1e39 0 0", "mean must hold finite numbers only"),
    _refused("a std that nothing can be divided by", "--std 1e-39 1 1", "each channel must have a std above 0"),
    _refused("an offset beyond every scan", "--offsets 0 99999999999999999999 0", "offsets must lie within 10000"),
    _refused(
        "an argument of the loss beyond float32",
        """--loss-arguments '{"smooth": 1e300}'""",
        "smooth of loss 'dice_bce' must be a positive number",
    ),
    Case(
        "labels without a vessel",
        SMALL,
        "no vessel was seen in epoch 1: look at the labels",
        _without_vessels,
        refused=False,
    ),
    _refused("a zoom that is no number", "--zoom nan 1", "zoom must be two factors in 0.1..10"),
    _refused("a scale of a kidney out of range", """--scales '{"k": 0}'""", "scale must be a number in 0.1..10, got 0"),
    _refused("synthetic windows of whole slices", "--synthetic 0.5", "synthetic go with region windows"),
    _refused("epochs without end", "--epochs 1000000000", "epochs must be at most", base=TRAIN),
    Case(
        "a kidney named twice",
        TRAIN.replace("--train-volumes kidney_1", "--train-volumes kidney_1 kidney_1"),
        "train_volumes must be distinct, found kidney_1 twice",
    ),
    Case("a slice held out twice", f"{TRAIN} kidney_1_0000", "held_out_slices must be distinct, found kidney_1_0000"),
    _refused(
        "pos_weight of a loss without it",
        """--loss-arguments '{"pos_weight": "data"}'""",
        "has no argument 'pos_weight'",
    ),
    # The model and its settings.
    _refused(
        "channels that contradict the preprocessing",
        """--model-arguments '{"in_channels": 4}'""",
        "model_arguments has in_channels 4, but the preprocessing makes it 3",
        base=TRAIN,
    ),
    _refused(
        "two outputs for one slice",
        """--model-arguments '{"widths": [4], "out_channels": 2}'""",
        "outputs 'centre' needs 1 output(s)",
        base=TRAIN,
    ),
    _refused(
        "a model larger than the memory",
        """--model-arguments '{"widths": [1048576, 1048576]}'""",
        "too many to train",
        base=TRAIN,
    ),
    _refused(
        "a model of a million blocks",
        """--model segformer --model-arguments '{"depths": [1, 1, 1, 1000000]}'""",
        "depths must be four positive integers up to 4096",
        base=TRAIN,
    ),
    _refused(
        "an encoder that is to stay as it is, without published weights",
        """--model sam_segmenter --model-arguments '{"encoder": "frozen", "tile": 4}'""",
        "does not train its image_encoder, and no published weights are given",
        base=TRAIN,
    ),
    _refused("Segment Anything as a model to train", "--model sam", "model 'sam' is not trained", base=TRAIN),
    _refused(
        "weights as an argument of the model",
        """--model segformer --model-arguments '{"weights_path": "x.pth"}'""",
        "model_arguments has weights_path, which is a setting of its own",
        base=TRAIN,
    ),
    Case("outputs for all slices", _with("--offsets -1 0 1 --outputs all"), refused=False, check=_is_trained),
    # Starting from a checkpoint.
    Case(
        "a checkpoint to start from",
        SMALL.replace(_MODEL, _INIT),
        "small.safetensors does not say what it learned from, so no slice can be called unseen",
        refused=False,
        check=_is_of_unknown_source,
    ),
    _refused("no such checkpoint to start from", "--init-from no.safetensors", "checkpoint no.safetensors is missing"),
    _refused(
        "a checkpoint of other arguments",
        "--init-from small.safetensors",
        "init_from small.safetensors was made with widths [4, 8], this run has [4]",
    ),
    _refused(
        "a checkpoint of another model",
        "--model segformer --init-from small.safetensors",
        "init_from small.safetensors is a 'unet', but this run trains a 'segformer'",
        base=TRAIN,
    ),
    _refused(
        "two sources of weights",
        "--init-from small.safetensors --weights-path x.pth",
        "weights_path and init_from both give the first weights",
    ),
    # Several trainings: all of them are looked at before the first.
    _refused(
        "a variant with a setting out of range",
        """--experiment unet-bce unet-dice-bce """
        """--override '{"*": {"train_volumes": ["kidney_1"]}, "*dice*": {"epochs": 0}}'""",
        "unet-dice-bce: epochs must be positive, got 0",
        base="compare --data-dir data --output-dir out --test-volume kidney_2",
        prepare=lambda f: shutil.copytree(f / "data/train/kidney_1", f / "data/train/kidney_2"),
    ),
    _refused("no seed", "--seed", "seeds must be at least one, found none", base=COMPARE),
    _refused(
        "a number for a list of kidneys",
        """--override '{"*": {"train_volumes": 5}}'""",
        "unet-bce: train_volumes must be tuple[str], found 5",
        base=COMPARE,
    ),
    _refused(
        "a number among the slices that are held out",
        """--override '{"*": {"held_out_slices": [3]}}'""",
        "unet-bce: held_out_slices must be tuple[str], found (3,)",
        base=COMPARE,
    ),
    _refused("a seed named twice", "--seed 0 0", "seeds must be distinct, found 0 twice", base=COMPARE),
    _refused("a seed below 0", "--seed -3", "seed must lie in 0..4294967295, got -3", base=COMPARE),
    _refused(
        "a setting of the wrong type",
        """--override '{"*": {"train_volumes": ["kidney_3"], "epochs": "6"}}'""",
        "epochs must be int, found '6'",
        base=COMPARE,
    ),
    _refused(
        "a seed among the overrides",
        """--override '{"*": {"seed": 1}}'""",
        "has seed, which is an option",
        base=COMPARE,
    ),
    _refused("two seeds, group native", "--seed 0 1", "--group native takes one seed", base=NATIVE),
    _refused("an experiment of the other group", "--experiment unet-bce", "is not of the group native", base=NATIVE),
    _refused("a folder of weights, group report", "--weights-dir .", "weights_dir is of --group native", base=COMPARE),
    _refused(
        "a kidney to learn from that is not there",
        """--override '{"*": {"train_volumes": ["kidney_3"]}}'""",
        "unet-bce: data/train has no kidney kidney_3",
        base=COMPARE,
    ),
    _refused(
        "a kidney named twice, to measure",
        "--volume kidney_1 kidney_1",
        "kidneys must be distinct",
        base="stats --data-dir data",
    ),
]
