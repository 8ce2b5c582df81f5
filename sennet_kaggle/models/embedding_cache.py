"""What a frozen encoder makes of training windows, kept in memory by the windows' content."""

import hashlib
from collections.abc import Callable
from typing import Any

import torch


class EmbeddingCache:
    """Embeddings by image, so that a frozen encoder sees each image once.

    A copy of it, such as that of a model whose weights are averaged, begins empty.

    Args:
        capacity: images that are kept, the first ones; 0 keeps none.
    """

    def __init__(self, capacity: int):
        self.capacity = capacity
        self._embeddings: dict[bytes, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self._embeddings)

    def __deepcopy__(self, memo: dict[int, Any]) -> "EmbeddingCache":
        return EmbeddingCache(self.capacity)

    def look_up(self, images: torch.Tensor, encode: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Encodes images, each of which may be known.

        Each is encoded alone and rounded, known or not, so that a run that goes on with an empty cache computes what
        one that was not stopped does.

        Args:
            images: (N, C, h, w) float.
            encode: maps such images to embeddings (N, K, i, j) float.

        Returns:
            (N, K, i, j), of the images' dtype on their device, as float16 has them.
        """
        rows = []
        for image in images:
            key = hashlib.blake2b(image.contiguous().numpy(force=True)).digest()
            row = self._embeddings.get(key)
            if row is None:
                row = encode(image[None])[0].to("cpu", torch.float16)
                if len(self) < self.capacity:
                    self._embeddings[key] = row
            rows.append(row.to(images.device, images.dtype))
        return torch.stack(rows)
