"""Streams made in another thread or for several takers: the same items, the same errors, and not too many held."""

import threading
import time
import weakref

import pytest

from sennet_kaggle.inference.stream import map_in_threads, prefetch, tee


@pytest.mark.parametrize("ahead", [1, 2, 7])
def test_items_come_in_their_order(ahead):
    assert list(prefetch((n * n for n in range(20)), ahead)) == [n * n for n in range(20)]
    assert list(prefetch([], ahead)) == []
    assert list(prefetch([None, None], ahead)) == [None, None]


def test_items_are_made_in_one_other_thread():
    threads = set(prefetch((threading.get_ident() for _ in range(9)), 2))
    assert len(threads) == 1 and threads != {threading.get_ident()}


def test_no_more_than_asked_for_are_made_ahead():
    made = []
    stream = prefetch((made.append(n) or n for n in range(50)), 3)
    for n in stream:
        time.sleep(0.002)  # time enough to make them all
        assert len(made) <= n + 4
    assert len(made) == 50


def test_an_exception_comes_out_at_its_place():
    def broken():
        yield 1
        yield 2
        raise ValueError("slice 3 is damaged")

    stream = prefetch(broken(), 5)
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
    stream = prefetch(source(), 2)
    assert next(stream) == 0 and threading.active_count() == running + 1
    stream.close()
    assert closed == [True] and threading.active_count() == running


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_threads_map_in_order(threads):
    def late(n):
        time.sleep(0.002 * (n % 3))  # later ones are done before earlier ones
        return n * n

    assert list(map_in_threads(late, range(20), threads)) == [n * n for n in range(20)]
    assert list(map_in_threads(late, [], threads)) == []


@pytest.mark.parametrize("threads", [2, 4])
def test_threads_work_at_once_each_begun_once_and_take_few_items(threads):
    together, begun, taken = threading.Barrier(threads), [], []

    def items():
        for n in range(6 * threads):
            taken.append(n)
            yield n

    def meet(n):
        together.wait(timeout=20)  # passes only if all threads work at the same time
        return n, threading.get_ident()

    stream, seen = map_in_threads(meet, items(), threads, lambda: begun.append(threading.get_ident())), set()
    for place, (n, thread) in enumerate(stream):
        seen.add(thread)
        assert n == place and len(taken) <= place + 1 + threads
    assert len(seen) == threads and sorted(begun) == sorted(seen) and threading.get_ident() not in seen


@pytest.mark.parametrize("threads", [1, 3])
def test_a_threads_exception_comes_out_at_its_place(threads):
    running = threading.active_count()
    stream = map_in_threads(lambda n: 10 // (3 - n), range(9), threads)
    assert [next(stream) for _ in range(3)] == [3, 5, 10]
    with pytest.raises(ZeroDivisionError):
        next(stream)
    assert threading.active_count() == running


def test_leaving_lanes_early_ends_them():
    running = threading.active_count()
    stream = map_in_threads(str, range(1000), 3)
    assert next(stream) == "0" and threading.active_count() > running
    stream.close()
    assert threading.active_count() == running


@pytest.mark.parametrize("count", [1, 2, 3])
def test_every_taker_gets_every_item(count):
    takers = tee(iter([0, None, 2]), count)
    assert list(zip(*takers, strict=True)) == [(item,) * count for item in (0, None, 2)]
    assert [list(taker) for taker in tee(range(4), count)] == [[0, 1, 2, 3]] * count
    assert [list(taker) for taker in tee([], count)] == [[]] * count


@pytest.mark.parametrize("lag", [0, 5])
def test_an_item_is_held_until_the_slowest_has_taken_it(lag):
    class Slice:
        pass

    alive = weakref.WeakSet()

    def source():
        for _ in range(100):
            alive.add(item := Slice())
            yield item
            del item

    fast, slow = tee(source(), 2)
    for _ in range(lag):
        next(fast)
    for _ in range(90):
        next(fast)
        next(slow)
        assert len(alive) <= lag + 1


def test_an_exception_reaches_the_taker_that_asked():
    def broken():
        yield 1
        raise ValueError("slice 2 is damaged")

    first, second = tee(broken(), 2)
    assert (next(first), next(second)) == (1, 1)
    with pytest.raises(ValueError, match="slice 2 is damaged"):
        next(first)
