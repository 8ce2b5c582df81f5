"""A GPU for machines without one: tensors that say they lie on cuda:0, computed on the CPU.

As on a real one, a tensor there has no numpy array, does not compute with a tensor of the CPU, and takes memory of
which there is only so much. torch's own dispatch and autocast see a CUDA tensor, so what they do is real; speed,
rounding, streams and kernels are not.
"""

import threading
import weakref
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from sennet_kaggle.data import transforms
from sennet_kaggle.inference import stream, windows

GPU = torch.device("cuda:0")
_CPU = torch.device("cpu")
_COPIES = ("aten::_to_copy", "aten::to", "aten::copy_")
_MAY_MIX = (*_COPIES, "aten::_has_compatible_shallow_copy_type")


class GpuTensor(torch.Tensor):
    """Says cuda:0 and keeps its values in a tensor of the CPU."""

    @staticmethod
    def __new__(cls, values, memory):
        return torch.Tensor._make_wrapper_subclass(
            cls, values.size(), strides=values.stride(), dtype=values.dtype, device=GPU
        )

    def __init__(self, values, memory):
        self.values, self.memory = values, memory
        memory.hold(self)

    # Before it dispatches these, torch asks the GPU's driver, which is not there.
    def __getitem__(self, index):
        return GpuTensor(self.values[tree_map(_on_cpu, index)], self.memory)

    def __setitem__(self, index, value):
        self.values[tree_map(_on_cpu, index)] = _on_cpu(value)

    def contiguous(self, memory_format=torch.contiguous_format):
        return GpuTensor(self.values.contiguous(memory_format=memory_format), self.memory)

    def numpy(self, *, force=False):
        if not force:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        return self.cpu().numpy()

    @classmethod
    def __torch_dispatch__(cls, operation, types, arguments=(), keywords=None):
        raise AssertionError(f"{operation} in a thread that does not know the stand-in GPU")


class Memory:
    """Counts the bytes that tensors hold; refuses those beyond a limit, as torch does."""

    def __init__(self, total):
        self.total = self.limit = total
        self.allocated = self.peak = 0
        self._holders, self._lock = Counter(), threading.RLock()  # tensors by the storage that they share

    def hold(self, tensor):
        storage = tensor.values.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        with self._lock:
            if not self._holders[key]:
                if self.allocated + size > self.limit:
                    raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {size} bytes")
                self.allocated += size
                self.peak = max(self.peak, self.allocated)
            self._holders[key] += 1
        weakref.finalize(tensor, self._let_go, key, size)

    def _let_go(self, key, size):
        with self._lock:
            self._holders[key] -= 1
            if not self._holders[key]:
                self.allocated -= size


class Copy(NamedTuple):
    """One tensor between CPU and GPU."""

    to: str
    dtype: torch.dtype
    size: int
    is_waited_for: bool


class _OnGpu(TorchDispatchMode):
    """Runs the operations of one thread."""

    def __init__(self, gpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, operation, types, arguments=(), keywords=None):
        leaves = tree_leaves((arguments, keywords or {}))
        tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        is_there = any(isinstance(tensor, GpuTensor) for tensor in tensors)
        is_copy = operation._schema.name in _COPIES
        is_mixed = is_there and any(tensor.ndim and not isinstance(tensor, GpuTensor) for tensor in tensors)
        if is_mixed and operation._schema.name not in _MAY_MIX:
            raise RuntimeError(f"Expected all tensors to be on the same device, found cuda:0 and cpu in {operation}")
        device = next((leaf for leaf in leaves if isinstance(leaf, torch.device)), None)
        if is_copy and device and (device.type == "cuda") != is_there:
            copied, waits = tensors[0], not (keywords or {}).get("non_blocking", False)
            self.gpu.copies.append(Copy(device.type, copied.dtype, copied.numel(), waits))
        goes_there = is_there if device is None else device.type == "cuda"
        arguments, keywords = tree_map(_on_cpu, (arguments, keywords or {}))
        results = operation(*arguments, **keywords)

        def wrap(leaf):
            return GpuTensor(leaf, self.gpu.memory) if goes_there and isinstance(leaf, torch.Tensor) else leaf

        return tree_map(wrap, results)


def _on_cpu(leaf):
    if isinstance(leaf, torch.device):
        return _CPU
    return leaf.values if isinstance(leaf, GpuTensor) else leaf


@contextmanager
def stand_in_gpu(monkeypatch, total_memory):
    """Within the block torch has one GPU with so many bytes of memory.

    Yields:
        `memory` (see `Memory`), `copies` between CPU and GPU in order, and how many tensors were `pinned`.
    """
    gpu = SimpleNamespace(memory=Memory(total_memory), copies=[], pinned=0)
    memory = gpu.memory

    class Threads(ThreadPoolExecutor):
        def submit(self, function, *arguments):
            def run():
                with _OnGpu(gpu):
                    return function(*arguments)

            return super().submit(run)

    def pin_memory(tensor):
        gpu.pinned += 1
        return tensor

    def limit(fraction, device=None):
        memory.limit = int(fraction * memory.total)

    def reset(device=None):
        memory.peak = memory.allocated

    answers = {
        "is_available": True,
        "device_count": 1,
        "get_device_name": "stand-in",
        "get_device_properties": SimpleNamespace(total_memory=memory.total),
    }
    functions = {
        **{name: lambda *_, value=value: value for name, value in answers.items()},
        **dict.fromkeys(("memory_allocated", "memory_reserved"), lambda *_: memory.allocated),
        **dict.fromkeys(("max_memory_allocated", "max_memory_reserved"), lambda *_: memory.peak),
        **dict.fromkeys(("empty_cache", "synchronize"), lambda *_: None),
        "mem_get_info": lambda *_: (memory.limit - memory.allocated, memory.total),
        "reset_peak_memory_stats": reset,
        "set_per_process_memory_fraction": limit,
    }
    if not torch.cuda.is_available():
        functions["_lazy_init"] = lambda: None
    caches = (windows.importance_map, transforms._normalisation_on)
    with monkeypatch.context() as patch:
        for name, function in functions.items():
            patch.setattr(torch.cuda, name, function)
        patch.setattr(torch.Tensor, "pin_memory", pin_memory)
        patch.setattr(stream, "ThreadPoolExecutor", Threads)
        # Else a module that is moved keeps its old parameters and changes what they hold.
        patch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
        for cache in caches:
            cache.cache_clear()
        try:
            with _OnGpu(gpu):
                yield gpu
        finally:
            for cache in caches:
                cache.cache_clear()
