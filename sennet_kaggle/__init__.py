"""Blood vessels in HiP-CT scans of human kidneys: train, score, submit (Kaggle's SenNet + HOA).

The names in `__all__` are the public interface of this version. Each is imported when it is first used, so that
`import sennet_kaggle` itself loads neither torch nor any other library.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# The module that each public name comes from.
_MODULES = {
    "Inference": "config",
    "create_model": "models",
    "dice_coefficient": "scoring.metrics",
    "load_predictors": "inference.loading",
    "measure_vessels": "vessels.measure",
    "open_mask": "scans.opening",
    "open_scan": "scans.opening",
    "open_volume": "data.volume",
    "rle_decode": "submission.rle",
    "rle_encode": "submission.rle",
    "segment": "api",
    "surface_dice": "scoring.surface_dice",
}
__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
