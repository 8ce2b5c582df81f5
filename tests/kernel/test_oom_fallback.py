"""A model that outlives its batches; docs/faults.md has the same within a whole run."""

import pytest
import torch
from torch import nn

from sennet_kaggle.errors import InputError
from sennet_kaggle.kernel.faults import Faults
from sennet_kaggle.kernel.oom_fallback import OutOfMemoryFallback, is_alive, is_out_of_memory


class Small(nn.Module):
    """Takes so many inputs at once; remembers how many it was shown."""

    def __init__(self, room: int, error: Exception):
        super().__init__()
        self.room, self.error, self.shown = room, error, []

    def forward(self, tensor):
        self.shown.append(len(tensor))
        if len(tensor) > self.room:
            raise self.error
        return 2 * tensor


BATCH = torch.arange(28.0).view(7, 1, 2, 2)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("cuDNN error: CUBLAS_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        RuntimeError("Unable to find an engine to execute this computation"),
        RuntimeError("GET was unable to find an engine to execute this computation"),
        RuntimeError("cuDNN Frontend error: [cudnn_frontend] Error: No valid execution plans built."),
        RuntimeError("CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY"),
        RuntimeError("cudaErrorMemoryAllocation: out of memory"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("std::bad_alloc"),
        OSError(12, "Cannot allocate memory"),
    ],
)
def test_halves_until_it_fits_and_remembers(error):
    model = Small(2, error)
    fallback = OutOfMemoryFallback(model, Faults(strict=False, say=lambda _: None))
    torch.testing.assert_close(fallback(BATCH), 2 * BATCH)
    assert model.shown == [7, 3, 1, 1, 1, 1, 1, 1, 1]
    model.shown.clear()
    torch.testing.assert_close(fallback(BATCH[:2]), 2 * BATCH[:2])
    assert model.shown == [1, 1]
    assert [fault.remedy for fault in fallback.faults.noted] == ["goes on with 3 at once", "goes on with 1 at once"]


def test_one_input_that_does_not_fit_is_not_tried_for_ever():
    fallback = OutOfMemoryFallback(Small(0, MemoryError()), Faults(strict=False, say=lambda _: None))
    for _ in range(2):
        with pytest.raises(MemoryError):
            fallback(BATCH)


def test_another_error_is_not_swallowed():
    model = Small(0, RuntimeError("expected 4 channels"))
    with pytest.raises(RuntimeError, match="expected 4 channels"):
        OutOfMemoryFallback(model, Faults(strict=False))(BATCH)
    assert model.shown == [7]


def test_a_strict_run_says_what_to_do():
    with pytest.raises(InputError, match="not enough memory for 7 input.* choose a smaller batch_size"):
        OutOfMemoryFallback(Small(2, MemoryError()), Faults(strict=True))(BATCH)


def test_a_nan_of_half_precision_is_cured_and_one_of_the_model_stays():
    class Overflowing(nn.Module):
        def forward(self, tensor):
            logits = tensor.clone()
            logits[0] = torch.nan if torch.is_autocast_enabled("cpu") else logits[0]
            logits[1] = torch.nan
            return logits

    fallback = OutOfMemoryFallback(Overflowing(), Faults(strict=False, say=lambda _: None))
    with torch.autocast("cpu", torch.bfloat16):
        logits = fallback(BATCH)
    assert logits.isnan().flatten(1).any(1).tolist() == [False, True, False, False, False, False, False]


def test_helpers():
    assert is_alive(torch.device("cpu")) and not is_alive(torch.device("meta"))  # which computes nothing
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
