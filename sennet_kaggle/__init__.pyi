# What type checkers and editors see of the names that are imported on first use.
from .api import segment as segment
from .config import Inference as Inference
from .data.volume import open_volume as open_volume
from .inference.loading import load_predictors as load_predictors
from .models import create_model as create_model
from .scans.opening import open_mask as open_mask
from .scans.opening import open_scan as open_scan
from .scoring.metrics import dice_coefficient as dice_coefficient
from .scoring.surface_dice import surface_dice as surface_dice
from .submission.rle import rle_decode as rle_decode
from .submission.rle import rle_encode as rle_encode
from .vessels.measure import measure_vessels as measure_vessels

__version__: str
__all__: list[str]
