"""Batches of one size, and that size from a GPU's memory (its figures are made up here)."""

from types import SimpleNamespace

import pytest
import torch

from sennet_kaggle.inference.batching import MOST_THREADS, choose_batch_size, choose_threads, make_batch


def test_a_cpu_takes_one_at_a_time():
    assert choose_batch_size(lambda: pytest.fail("nothing to measure"), torch.device("cpu")) == 1


@pytest.mark.parametrize(
    ("gigabytes_per_input", "expected"),
    [(16, 1), (8, 1), (4, 2), (3, 2), (2, 4), (0.9, 8), (0.5, 16), (0.01, 16), (0, 16)],
)
def test_a_gpu_of_16_gigabytes_is_filled_to_a_half(monkeypatch, gigabytes_per_input, expected):
    """Neither what lies there before nor an earlier peak counts as an input's."""
    before, peak = 10**9, [15 * 10**9]
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: before)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.__setitem__(slice(None), [before]))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: max(peak))
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=16 * 10**9))
    size = choose_batch_size(lambda: peak.append(before + gigabytes_per_input * 10**9), torch.device("cuda"))
    assert size == expected


def test_a_batch_is_filled_up():
    first, second = torch.zeros(3, 4, 5), torch.ones(3, 4, 5)
    assert make_batch([first, second], 2)[:, 0, 0, 0].tolist() == [0, 1]
    assert make_batch([first, second], 5)[:, 0, 0, 0].tolist() == [0, 1, 1, 1, 1]


def test_a_lane_for_every_core_of_a_cpu_but_one_on_a_gpu(monkeypatch):
    for cores, threads in ((1, 1), (2, 2), (4, 4), (64, MOST_THREADS)):
        monkeypatch.setattr(torch, "get_num_threads", lambda cores=cores: cores)
        assert choose_threads(torch.device("cpu")) == threads
        assert choose_threads(torch.device("cuda:0")) == 1
