"""A model run by OpenVINO on the CPU, behind the same seam; an optional extra (requirements-openvino.txt)."""

import threading
from queue import SimpleQueue

import torch
from torch import nn

from ..errors import InputError

_PRECISIONS = {"auto": "f32", "float32": "f32", "float16": "f16", "bfloat16": "bf16"}


class OpenVinoModel(nn.Module):
    """Gives what a model of logits gives, to several threads at once; compiled once for each shape of batch.

    Args:
        model: in evaluation mode, on the CPU.
        precision: of `Inference`; auto is float32.
        threads: that will call it; the cores are divided among so many.

    Raises:
        InputError: OpenVINO is not installed.
    """

    def __init__(self, model: nn.Module, precision: str, threads: int = 1):
        super().__init__()
        try:
            import openvino
        except ModuleNotFoundError as error:
            raise InputError(
                "backend openvino needs the package openvino, which is not installed: "
                "pip install -r requirements-openvino.txt, or choose backend torch"
            ) from error
        self.model = model
        self._openvino, self._threads = openvino, threads
        self._requests: dict[torch.Size, SimpleQueue] = {}
        self._compiling = threading.Lock()
        self._hints = {
            "INFERENCE_PRECISION_HINT": _PRECISIONS[precision],
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "NUM_STREAMS": threads,
        }

    def forward(self, tensor: torch.Tensor) -> torch.Tensor:
        """Maps (N, C, h, w) float32 to logits (N, outputs, h, w) float32."""
        requests = self._requests_of(tensor.shape)
        request = requests.get()
        try:
            return torch.from_numpy(request.infer([tensor.contiguous().numpy()])[0].copy())
        finally:
            requests.put(request)

    def _requests_of(self, shape: torch.Size) -> SimpleQueue:
        """The free ways into the model compiled for a shape, all made at once: one made later waits for the others."""
        with self._compiling:
            if shape not in self._requests:
                compiled = self._compile(tuple(shape))
                self._requests[shape] = SimpleQueue()
                for _ in range(self._threads):
                    self._requests[shape].put(compiled.create_infer_request())
            return self._requests[shape]

    def _compile(self, shape: tuple[int, ...]):
        with torch.inference_mode(False), torch.no_grad():
            converted = self._openvino.convert_model(self.model, example_input=torch.zeros(shape), input=[shape])
        return self._openvino.compile_model(converted, "CPU", self._hints)
