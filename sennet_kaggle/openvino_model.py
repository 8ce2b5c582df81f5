"""A model run by OpenVINO on the CPU, behind the same seam; an optional extra (requirements-openvino.txt)."""

import torch
from torch import nn

from .errors import InputError

_PRECISIONS = {"auto": "f32", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class OpenVinoModel(nn.Module):
    """Gives what a model of logits gives; compiled once for each shape of batch.

    Args:
        model: in evaluation mode, on the CPU.
        precision: of `Inference`; auto is float32.

    Raises:
        InputError: OpenVINO is not installed.
    """

    def __init__(self, model: nn.Module, precision: str):
        super().__init__()
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise InputError(
                "backend openvino needs the package openvino, which is not installed: "
                "pip install -r requirements-openvino.txt, or choose backend torch"
            ) from error
        self.model = model
        self._openvino, self._precision, self._compiled = openvino, _PRECISIONS[precision], {}

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, h, w) float32 to logits (N, outputs, h, w) float32."""
        shape = tuple(tensor.shape)
        if shape not in self._compiled:
            self._compiled[shape] = self._compile(shape)
        return torch.from_numpy(self._compiled[shape]([tensor.contiguous().numpy()])[0])

    def _compile(self, shape: tuple[int, ...]):
        with torch.inference_mode(False), torch.no_grad():
            converted = self._openvino.convert_model(self.model, example_input=torch.zeros(shape), input=[shape])
        hints = {"INFERENCE_PRECISION_HINT": self._precision, "PERFORMANCE_HINT": "LATENCY"}
        return self._openvino.compile_model(converted, "CPU", hints)
