"""Inference at native resolution against the forward pass alone on the same windows.

    python benchmarks/windows.py

The shipped U-Net with windows of 512 pixels over a slice of kidney_1_dense in $SENNET_DATA_DIR (default
../shared/data), or over a phantom's. Prints CPU seconds on one thread, the best of three rounds, taken in turns.
"""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

from sennet_kaggle.config import Inference  # noqa: E402
from sennet_kaggle.data.intensity import measure_intensity  # noqa: E402
from sennet_kaggle.data.phantom import Phantom, phantom_slices  # noqa: E402
from sennet_kaggle.data.volume import open_volume  # noqa: E402
from sennet_kaggle.files import shipped_checkpoints  # noqa: E402
from sennet_kaggle.inference.loading import create_predictor  # noqa: E402
from sennet_kaggle.models.checkpoint import load_checkpoint  # noqa: E402

KIDNEY_DIR = Path(os.environ.get("SENNET_DATA_DIR", REPOSITORY.parent / "shared" / "data")) / "train/kidney_1_dense"
ROUNDS = 3


def main() -> None:
    torch.set_num_threads(1)
    volume = open_volume(KIDNEY_DIR) if KIDNEY_DIR.is_dir() else [s for s, _ in phantom_slices(Phantom((1, 1303, 912)))]
    model, card = load_checkpoint(shipped_checkpoints()[0])
    inference = Inference()
    predictor = create_predictor(model, replace(card.preprocessing, roi_size=512), card.threshold, inference)
    intensity = measure_intensity(volume, predictor.preprocessing)

    def slices() -> Iterator[np.ndarray]:
        yield volume[len(volume) // 2]

    batches = batches_of(predictor, slices(), intensity, inference)
    best = dict.fromkeys(("windows cut, run and blended, with reading", "the forward pass alone"), float("inf"))
    for _ in range(ROUNDS):
        for name, run in zip(
            best,
            (
                lambda: predictor(slices(), intensity, inference),
                lambda: [forward(predictor, batch) for batch in batches],
            ),
            strict=True,
        ):
            started = time.process_time()
            run()
            best[name] = min(best[name], time.process_time() - started)
    both, alone = best.values()
    print(f"| 1 slice, {sum(map(len, batches))} windows | CPU seconds |\n|---|---|")
    for name, seconds in best.items():
        print(f"| {name} | {seconds:.3f} |")
    print(f"| ratio | {both / alone:.3f} |")


def batches_of(predictor, slices, intensity, inference) -> list[torch.Tensor]:
    """The very batches that the model is shown."""
    shown = []
    hook = predictor.model.register_forward_pre_hook(lambda _, arguments: shown.append(arguments[0].clone()))
    predictor(slices, intensity, inference)
    hook.remove()
    return shown


def forward(predictor, batch: torch.Tensor) -> torch.Tensor:
    with (
        torch.inference_mode(),
        torch.autocast(predictor.device.type, predictor.dtype, predictor.dtype != torch.float32),
    ):
        return predictor.model(batch)


if __name__ == "__main__":
    main()
