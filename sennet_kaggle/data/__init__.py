"""Files of a scan → slices and what a model sees of them.

In: a kidney folder of TIFFs, or a phantom. Out: slices (H, W) uint8 or uint16, tensors (C, h, w) float32, and pairs of
image and target for training. Open `volume.py` first.
"""

import cv2

# OpenCV's own threads would gain little on one slice, and wait for the next by spinning on the model's cores.
cv2.setNumThreads(1)
