"""The stages of the road side by side: streams that are made in threads of their own, in order all the same."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")
_END: Any = object()


def prefetch(items: Iterable[Item], ahead: int) -> Iterator[Item]:
    """Gives the items of a stream in their order, while a thread makes the next ones.

    What is heavy on the road (reading, torch, OpenCV, numpy) leaves the other threads free to run. An exception
    comes out at its item's place. When the stream is left early, the item in the making is waited for and the
    rest is not begun.

    Args:
        items: consumed in that thread alone.
        ahead: how many finished items may wait to be taken, at least 1.
    """
    source = iter(items)
    thread = ThreadPoolExecutor(1, thread_name_prefix="prefetch")
    try:
        pending = deque(thread.submit(next, source, _END) for _ in range(ahead))
        while (item := pending.popleft().result()) is not _END:
            pending.append(thread.submit(next, source, _END))
            yield item
            del item  # else it would be held while the next one is waited for
    finally:
        thread.shutdown(cancel_futures=True)
        if hasattr(source, "close"):
            source.close()


def map_in_threads(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    threads: int,
    at_start: Callable[[], object] | None = None,
) -> Iterator[Result]:
    """As `map`, with as many calls at once as there are worker threads; with one it is `map`.

    The results keep the order of the items, which the calling thread takes, and exceptions come out at their place.
    At most one item more than threads is under way or waits to be handed on. When the stream is left early, what is
    under way is waited for.

    Args:
        function: leaves other threads free to run while it works.
        threads: at least 1.
        at_start: called once in each thread before it works.
    """
    if threads == 1:
        yield from map(function, items)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="worker_thread", initializer=at_start)
    try:
        pending: deque[Future[Result]] = deque()
        for item in items:
            pending.append(pool.submit(function, item))
            del item
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def tee(items: Iterable[Item], count: int) -> list[Iterator[Item]]:
    """One stream for several takers; an item is held until the slowest has taken it, and no longer.

    `itertools.tee` would hold 57: it drops items by the block.

    Args:
        items: consumed as fast as the fastest asks.
        count: takers, all of one thread.
    """
    source = iter(items)
    queues: list[deque[Item]] = [deque() for _ in range(count)]

    def take(queue: deque[Item]) -> Iterator[Item]:
        while True:
            if not queue:
                item = next(source, _END)
                for each in queues:
                    each.append(item)
                del item
            if queue[0] is _END:
                return
            yield queue.popleft()

    return [take(queue) for queue in queues]
