"""The baseline of the report, in its own process: ours changes how a process keeps memory and OpenCV's threads.

    python benchmarks/report_baseline.py MODEL ARGUMENTS_AS_JSON SLICE ...

cv2's default read, HuggingFace's processor, batch 1, float32, two-class logits brought to the slice's size by torch,
argmax, the usual run-length encoding, one slice after another. Segments all slices for each line that comes in, and
answers with the CPU time.
"""

import json
import sys
import time
from pathlib import Path

import cv2
import torch
import torch.nn.functional as F
from transformers import SegformerImageProcessor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from rle import usual_encode  # noqa: E402

from sennet_kaggle.models import create_model  # noqa: E402


def main(name: str, arguments: str, *paths: str) -> None:
    processor = SegformerImageProcessor(size={"height": 512, "width": 512}, do_reduce_labels=False)
    torch.manual_seed(0)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = create_model(name, **json.loads(arguments)).eval().to(device)
    network = getattr(model, "network", None)

    def segment(path: str) -> str:
        image = cv2.imread(path)
        pixels = processor(images=image, return_tensors="pt")["pixel_values"].to(device)
        with torch.no_grad():
            logits = model(pixels) if network is None else network(pixel_values=pixels).logits
            both = torch.cat((torch.zeros_like(logits), logits), dim=1)  # the same weights as two classes
            mask = F.interpolate(both, image.shape[:2], mode="bilinear", align_corners=False).argmax(1)[0]
        return usual_encode(mask.cpu().numpy())

    for _ in sys.stdin:
        started = time.process_time()
        for path in paths:
            segment(path)
        print(time.process_time() - started, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
