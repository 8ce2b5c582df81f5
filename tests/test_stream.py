"""A stream whose items are made in another thread: the same items, the same errors, and not too many of them."""

import threading
import time

import pytest

from sennet_kaggle.stream import work_ahead


@pytest.mark.parametrize("ahead", [1, 2, 7])
def test_items_come_in_their_order(ahead):
    assert list(work_ahead((n * n for n in range(20)), ahead)) == [n * n for n in range(20)]
    assert list(work_ahead([], ahead)) == []
    assert list(work_ahead([None, None], ahead)) == [None, None]


def test_items_are_made_in_one_other_thread():
    threads = set(work_ahead((threading.get_ident() for _ in range(9)), 2))
    assert len(threads) == 1 and threads != {threading.get_ident()}


def test_no_more_than_asked_for_are_made_ahead():
    made = []
    stream = work_ahead((made.append(n) or n for n in range(50)), 3)
    for n in stream:
        time.sleep(0.002)  # time enough to make them all
        assert len(made) <= n + 4
    assert len(made) == 50


def test_an_exception_comes_out_at_its_place():
    def broken():
        yield 1
        yield 2
        raise ValueError("slice 3 is damaged")

    stream = work_ahead(broken(), 5)
    assert [next(stream), next(stream)] == [1, 2]
    with pytest.raises(ValueError, match="slice 3 is damaged"):
        next(stream)


def test_leaving_early_closes_the_source_and_ends_the_thread():
    closed = []

    def source():
        try:
            yield from range(1000)
        finally:
            closed.append(True)

    running = threading.active_count()
    stream = work_ahead(source(), 2)
    assert next(stream) == 0 and threading.active_count() == running + 1
    stream.close()
    assert closed == [True] and threading.active_count() == running
