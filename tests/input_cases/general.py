"""Commands and their settings."""

import numpy as np
from conftest import write_tiff

from . import PREDICT, TRAIN, Case


def _truncated(name):
    def truncate(folder):
        path = folder / name
        path.write_bytes(path.read_bytes()[:-200])

    return truncate


def _of_another_width(name, dtype):
    return lambda folder: write_tiff(folder / name, np.zeros((40, 30), dtype))


def _out_of_range(folder):
    rows = ["id,rle", "kidney_5_0000,1 0", "kidney_5_0001,1240 2", "kidney_5_0002,1 0"]
    (folder / "s.csv").write_text("\n".join(rows))


TITLE = "Commands and settings"
CASES = [
    Case("no such data folder", "predict --data-dir nowhere --output out.csv", "nowhere/test is missing"),
    Case("no such checkpoint", f"{PREDICT} no.safetensors", "checkpoint no.safetensors is missing"),
    Case("a truncated checkpoint", PREDICT, "is truncated or not", _truncated("small.safetensors")),
    Case("a truncated slice", PREDICT, "0002.tif is truncated", _truncated("data/test/kidney_5/images/0002.tif")),
    Case("batch size 0", f"{PREDICT} --batch-size 0", "batch_size must be at least 1"),
    Case("a threshold of 2", f"{PREDICT} --threshold 2", "threshold must lie in 0..1"),
    Case("a GPU that is not there", f"{PREDICT} --device cuda:7", "device 'cuda:7' is not on this machine"),
    Case("overlap 1", f"{PREDICT} --overlap 1", "overlap must lie in 0..1 (1 excluded), got 1.0"),
    Case("no windows at once", f"{PREDICT} --sw-batch-size 0", "sw_batch_size must be at least 1"),
    Case("an extra scale of nothing", f"{PREDICT} --extra-scales 0", "extra_scales must lie in 0.1..10, once each"),
    Case("an extra scale twice", f"{PREDICT} --extra-scales 2 2", "once each, without 1 itself, got (2.0, 2.0)"),
    Case("a negative scale", f"{PREDICT} --scale -1", "scale must be a number in 0.1..10, got -1.0"),
    Case(
        "scale auto with a checkpoint of unknown voxel size",
        f"{PREDICT} --scale auto",
        "small.safetensors names nothing: give the scale as a number",
    ),
    Case(
        "a kidney's scale that is no number",
        PREDICT + """ --scales '{"kidney_6": "a"}'""",
        "scale must be a number in",
    ),
    Case(
        "a scale of a kidney that is not there",
        PREDICT + """ --scales '{"kidney_9": 1.2}'""",
        "scales has kidney_9, which is none of the kidneys: expected names of kidney_5",
        refused=False,
    ),
    Case("no such scratch folder", f"{PREDICT} --axes zyx --scratch-dir no", "scratch_dir no is missing"),
    Case(
        "slices of two sizes, along three axes",
        f"{PREDICT} --axes zyx",
        "slice 2 is uint16 (40, 30) but the first is uint16 (40, 31)",
        _of_another_width("data/test/kidney_5/images/0001.tif", np.uint16),
    ),
    Case(
        "an output in no folder",
        PREDICT.replace("out.csv", "no/out.csv"),
        "cannot write no/out.csv: there is no folder no",
    ),
    Case(
        "a label of another size than its slice",
        TRAIN,
        "0001.tif is 40x30 but its image",
        _of_another_width("data/train/kidney_1/labels/0001.tif", np.uint8),
    ),
    Case("an unknown model", f"{TRAIN} --model resnet", "unknown model 'resnet': choose one of"),
    Case("an unknown loss", f"{TRAIN} --loss dise", "unknown loss 'dise': choose one of"),
    Case("no epochs", f"{TRAIN} --epochs 0", "epochs must be positive"),
    Case(
        "a run beyond the last pixel",
        "validate --submission s.csv --data-dir data",
        "kidney_5_0001: RLE out of range",
        _out_of_range,
    ),
    Case("a kidney to rehearse on, but no data", "dry-run --volume kidney_2", "volume kidney_2 needs --data-dir"),
    Case(
        "two ways to hold slices out", f"{TRAIN} --held-out-fraction 0.5", "exclude each other: give one of them"
    ),
    Case(
        "Segment Anything without weights",
        "sam-zero-shot --data-dir data --output-dir out --volume kidney_1",
        "sam_vit_b_01ec64.pth",
    ),
    Case(
        "an override of no experiment",
        """compare --data-dir data --output-dir out --test-volume kidney_1 --override '{"x":{}}'""",
        "override 'x' is of no chosen experiment",
    ),
    Case("no such kidney", "stats --data-dir data --volume kidney_9", "has no kidney kidney_9"),
    Case(
        "weights that are not there",
        "pack --model sam --weights-path no.pth --output out.safetensors",
        "no.pth are missing",
    ),
]  # fmt: skip
