"""A model run by OpenVINO on the CPU, behind the same seam; an optional extra (requirements-openvino.txt)."""

import threading

import torch
from torch import nn

from .errors import InputError

_PRECISIONS = {"auto": "f32", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class OpenVinoModel(nn.Module):
    """Gives what a model of logits gives, to several threads at once; compiled once for each shape of batch.

    Args:
        model: in evaluation mode, on the CPU.
        precision: of `Inference`; auto is float32.
        lanes: threads that will call it; the cores are shared out among so many.

    Raises:
        InputError: OpenVINO is not installed.
    """

    def __init__(self, model: nn.Module, precision: str, lanes: int = 1):
        super().__init__()
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise InputError(
                "backend openvino needs the package openvino, which is not installed: "
                "pip install -r requirements-openvino.txt, or choose backend torch"
            ) from error
        self.model = model
        self._openvino, self._compiled, self._compiling = openvino, {}, threading.Lock()
        self._requests = threading.local()
        self._hints = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": lanes,
        }

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, h, w) float32 to logits (N, outputs, h, w) float32."""
        request = self._request(tuple(tensor.shape))
        return torch.from_numpy(request.infer([tensor.contiguous().numpy()])[0].copy())

    def _request(self, shape: tuple[int, ...]):
        """This thread's own way into the compiled model."""
        requests = vars(self._requests)
        if shape not in requests:
            with self._compiling:
                if shape not in self._compiled:
                    self._compiled[shape] = self._compile(shape)
            requests[shape] = self._compiled[shape].create_infer_request()
        return requests[shape]

    def _compile(self, shape: tuple[int, ...]):
        with torch.inference_mode(False), torch.no_grad():
            converted = self._openvino.convert_model(self.model, example_input=torch.zeros(shape), input=[shape])
        return self._openvino.compile_model(converted, "CPU", self._hints)
