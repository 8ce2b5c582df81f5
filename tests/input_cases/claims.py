"""What is claimed."""

import dataclasses
import json
import shutil

import torch

from sennet_kaggle.config import Preprocessing
from sennet_kaggle.models import create_model
from sennet_kaggle.models.checkpoint import Card, read_card, replace_card, save_checkpoint

from . import TRAIN, UNET, Case

LEARNED = tuple(f"kidney_1_000{z}" for z in range(3))
CARD = "card --data-dir data --output-dir out --checkpoint small.safetensors"
COMPARE = (
    "compare --data-dir data --output-dir out --experiment unet-bce --override "
    """'{"*": {"train_volumes": ["kidney_1"], "workers": 0}}' --test-volume"""
)


def _copied(name):
    """The labelled kidney once more, under another name."""
    return lambda folder: shutil.copytree(folder / "data/train/kidney_1", folder / "data/train" / name)


def _dense_pair(folder):
    """As in the competition: kidney_3_dense has labels alone, for images of kidney_3_sparse."""
    shutil.move(folder / "data/train/kidney_1", folder / "data/train/kidney_3_sparse")
    labels = folder / "data/train/kidney_3_sparse/labels"
    shutil.copytree(labels, folder / "data/train/kidney_3_dense/labels")


def _learned(folder):
    card = read_card(folder / "small.safetensors")
    replace_card(folder / "small.safetensors", dataclasses.replace(card, trained_on=LEARNED))


def _learned_and_copied(folder):
    _learned(folder)
    _copied("copy")(folder)


def _run(learned=LEARNED, sha256=None):
    """A run's folder with a checkpoint, all its weights 0, and, with a hash, a submission of that checkpoint."""

    def write(folder):
        (folder / "run").mkdir()
        model = create_model("unet", **UNET)
        for tensor in model.state_dict().values():
            tensor.zero_()
        card = Card("unet", UNET, Preprocessing(roi_size=32), 0.5, trained_on=learned)
        save_checkpoint(folder / "run/checkpoint.safetensors", model, card)
        if sha256 is not None:
            _submission(folder / "run/submission.csv", sha256, card)

    return write


def _submission(path, sha256, card):
    path.write_text("id,rle\n" + "".join(f"{slice_id},1 1\n" for slice_id in LEARNED))
    made = {"file": "old.safetensors", "sha256": sha256, "card": dataclasses.asdict(card)}
    origin = {"package_sha256": "0", "checkpoints": [made], "settings": {"inference": {"tta": "flips"}}}
    path.with_suffix(".json").write_text(json.dumps(origin))


def _scored(folder):
    card = Card("unet", UNET, Preprocessing(roi_size=32), 0.5, trained_on=LEARNED)
    _submission(folder / "s.csv", "0" * 64, card)


def _segment_anything(folder):
    arguments = {"image_size": 64, "embed_dim": 16, "depth": 1, "num_heads": 1, "global_attn_indexes": [0]}
    arguments |= {"points_per_side": 1}
    torch.manual_seed(0)
    card = Card("sam", arguments, Preprocessing(intensity="eight_bit"), 0.5)
    save_checkpoint(folder / "small.safetensors", create_model("sam", **arguments), card)


def _has_rows(folder):
    assert len((folder / "out.csv").read_text().splitlines()) == 4


TITLE = "What is claimed"
CASES = [
    Case(
        "a held-out kidney that is a copy of one learned from",
        TRAIN.replace("--held-out-slices kidney_1_0000", "--held-out-volumes copy"),
        "held-out slices must not be learned from as well, but copy_0000 is the same image as kidney_1_0000",
        _copied("copy"),
    ),
    Case(
        "the dense labels of a kidney whose sparse ones are learned from",
        TRAIN.replace("--held-out-slices kidney_1_0000", "--held-out-volumes kidney_3_dense").replace(
            "--train-volumes kidney_1", "--train-volumes kidney_3_sparse"
        ),
        "kidney_3_dense_0000 is the same image as kidney_3_sparse_0000 (3 of 3 such slices)",
        _dense_pair,
    ),
    Case(
        "a comparison's test that is a copy of what is learned from",
        f"{COMPARE} copy",
        "copy_0000 is the same image as kidney_1_0000 (3 of 3 such slices)",
        _copied("copy"),
    ),
    Case(
        "a comparison's test without labels",
        f"{COMPARE} copy",
        "copy is the test, but none of its 3 slices has a label",
        lambda folder: shutil.copytree(folder / "data/test/kidney_5", folder / "data/train/copy"),
    ),
    Case("a card on a kidney that was learned from", f"{CARD} --volume kidney_1", "kidney_1_0000 was", _learned),
    Case(
        "a card on a copy of a kidney that was learned from",
        f"{CARD} --volume copy",
        "copy_0000 was learned from, as kidney_1_0000",
        _learned_and_copied,
    ),
    Case(
        "images to record that are not there",
        f"{CARD} --record-images --volume copy",
        "data has no image of kidney_1_0000, which small.safetensors learned from",
        lambda folder: (_learned_and_copied(folder), shutil.rmtree(folder / "data/train/kidney_1")),
    ),
    Case(
        "slices to segment that were learned from",
        "predict --data-dir data --output out.csv --checkpoint small.safetensors --volume copy",
        "3 of 3 slices were learned from by the model (copy_0000, as kidney_1_0000 and more)",
        _learned_and_copied,
        refused=False,
        check=_has_rows,
    ),
    Case(
        "slices to score that were learned from",
        "score --submission s.csv --labels data",
        "3 of 3 slices were learned from by the model (kidney_1_0000 and more)",
        _scored,
        refused=False,
    ),
    Case(
        "a checkpoint of Segment Anything, nothing said of views",
        "predict --data-dir data --output out.csv --checkpoint small.safetensors",
        "Segment Anything answers with masks, which are not averaged over views: no flips for it",
        _segment_anything,
        refused=False,
        check=_has_rows,
    ),
    Case(
        "a report on masks of another checkpoint than the one beside them",
        "report --run-dir run --data-dir data",
        ("was made by old.safetensors (abcabcabcabc); views flips", "predict again with that, or move one of the two"),
        _run(sha256="abc" * 21 + "a"),
    ),
    Case(
        "a report on a kidney of which there are no masks",
        "report --run-dir run --data-dir data --volume kidney_5",
        "run/submission.csv has no mask of kidney_5: expected one of kidney_1, or predict it first",
        lambda folder: (_run(sha256="0")(folder), (folder / "run/checkpoint.safetensors").unlink()),
    ),
    Case(
        "a report on a checkpoint that names no slices",
        "report --run-dir run --data-dir data",
        "does not say which kidneys it learned from: name some with --volume",
        _run(learned=()),
    ),
    Case(
        "a report on masks of which nothing says what made them",
        "report --run-dir run --data-dir data",
        "nothing says what made run/submission.csv",
        lambda folder: (_run(sha256="0")(folder), (folder / "run/submission.json").unlink()),
        refused=False,
    ),
]
