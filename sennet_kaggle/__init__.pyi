# What type checkers and editors see of the names that are imported on first use.
from .api import segment as segment
from .config import Inference as Inference
from .metrics import dice_coefficient as dice_coefficient
from .models import create_model as create_model
from .predict import load_predictors as load_predictors
from .rle import rle_decode as rle_decode
from .rle import rle_encode as rle_encode
from .surface_metric import surface_dice as surface_dice
from .volume import open_volume as open_volume

__version__: str
__all__: list[str]
