"""Peak memory of inference along three axes: what this process holds does not grow with the volume.

    python benchmarks/axes_memory.py [DEPTH ...]

For each depth (default 256 and 512) a phantom of DEPTH x 512 x 512 goes through a small U-Net with windows of 256
pixels, along z alone and along z, y and x, each in a process of its own. Prints a Markdown table: anonymous memory is
what the process holds (RssAnon), resident memory adds the pages of the memory maps (RssFile), which the system drops
when it needs them. Both are differences from just before the prediction, the highest of samples every 20 ms.
"""

import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(REPOSITORY))

SIDE = 512
ROI_SIZE = 256


def main() -> None:
    depths = [int(argument) for argument in sys.argv[1:]] or [256, 512]
    print("| volume | axes | extra RssAnon, MiB | extra RSS, MiB | memory maps, MiB | seconds |")
    print("|---|---|---|---|---|---|")
    for depth in depths:
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), depth)
            for axes in ("z", "zyx"):
                command = [sys.executable, __file__, "measure", folder, axes]
                print(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout, end="", flush=True)


def write(folder: Path, depth: int) -> None:
    from sennet_kaggle.data.phantom import Phantom, write_phantom

    write_phantom(folder, "phantom", Phantom((depth, SIDE, SIDE)), split="test", with_labels=False)


def measure(folder: Path, axes: str) -> None:
    import torch

    from sennet_kaggle.config import Inference, Preprocessing
    from sennet_kaggle.data.intensity import IntensityRange
    from sennet_kaggle.data.volume import open_volume
    from sennet_kaggle.inference.loading import create_predictor
    from sennet_kaggle.inference.predict import predict_masks
    from sennet_kaggle.models import create_model

    torch.manual_seed(0)
    model = create_model("unet", widths=[2, 4], bottleneck=4)
    preprocessing = Preprocessing(region="windows", roi_size=ROI_SIZE)
    inference = Inference(device="cpu", axes=axes, overlap=0, skip_background=False)
    predictor = create_predictor(model, preprocessing, 0.5, inference)
    volume = open_volume(folder / "test" / "phantom")
    predictor([volume[0], volume[1]], IntensityRange(20500, 29500), inference)  # what the first pass alone allocates
    before = memory()
    peak, finished = dict(before), threading.Event()

    def sample() -> None:
        while not finished.wait(0.02):
            for name, value in memory().items():
                peak[name] = max(peak[name], value)

    sampler = threading.Thread(target=sample)
    sampler.start()
    started = time.perf_counter()
    for _ in predict_masks(volume, [predictor], inference):
        pass
    seconds = time.perf_counter() - started
    finished.set()
    sampler.join()
    depth = len(volume)
    maps = 4 * depth * SIDE * SIDE / 2**20 if axes == "zyx" else 0
    anonymous, resident = (peak[name] - before[name] for name in ("RssAnon", "VmRSS"))
    print(f"| {depth}x{SIDE}x{SIDE} | {axes} | {anonymous:.0f} | {resident:.0f} | {maps:.0f} | {seconds:.0f} |")


def memory() -> dict[str, float]:
    """Anonymous and resident memory of this process, in MiB."""
    lines = (line.split() for line in Path("/proc/self/status").read_text().splitlines())
    return {words[0][:-1]: int(words[1]) / 1024 for words in lines if words and words[0] in ("RssAnon:", "VmRSS:")}


if __name__ == "__main__":
    if sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]), sys.argv[3])
    else:
        main()
