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

        Args:
            images: (N, C, h, w) float.
            encode: maps such images to embeddings (N, K, i, j) float.

        Returns:
            (N, K, i, j), of the images' dtype on their device; known ones as float16 has them.
        """
        keys = [hashlib.blake2b(image.contiguous().numpy(force=True)).digest() for image in images]
        wanted = [index for index, key in enumerate(keys) if key not in self._embeddings]
        fresh = dict(zip(wanted, encode(images[wanted]), strict=True)) if wanted else {}
        for index, embedding in fresh.items():
            if len(self) < self.capacity:
                self._embeddings[keys[index]] = embedding.to("cpu", torch.float16)
        rows = [fresh[index] if index in fresh else self._embeddings[key] for index, key in enumerate(keys)]
        return torch.stack([row.to(images.device, images.dtype) for row in rows])
