"""Bars of several processes: none waits for another's."""

import io
import multiprocessing
import os
import signal
import threading

import pytest

from sennet_kaggle.progress import Bar, progress_bar

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]
FORK = multiprocessing.get_context("fork" if hasattr(os, "fork") else None)


class Deadly(io.StringIO):
    """What is drawn there kills the process, in the middle of drawing."""

    def write(self, text):
        os.kill(os.getpid(), signal.SIGKILL)


def draw(file=None):
    for _ in progress_bar("drawing", 2, [0, 1], file=file or io.StringIO()):
        Bar.write("a line", file=io.StringIO())


def ends(target) -> bool:
    """Whether a thread ends; one that waits for a lock can be left behind."""
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    thread.join(20)
    return not thread.is_alive()


def test_one_killed_while_it_draws_holds_up_no_other():
    draw()
    child = FORK.Process(target=draw, args=(Deadly(),))
    child.start()
    child.join(20)
    assert child.exitcode == -signal.SIGKILL
    assert ends(draw)


def test_one_forked_while_a_thread_draws_can_draw():
    held, done = threading.Event(), threading.Event()

    def hold():
        with Bar.get_lock():
            held.set()
            done.wait(60)

    threading.Thread(target=hold, daemon=True).start()
    assert held.wait(20)
    child = FORK.Process(target=draw)
    try:
        child.start()
        child.join(20)
    finally:
        done.set()
        child.kill()
    assert child.exitcode == 0


def test_threads_still_wait_for_each_other():
    with Bar.get_lock():
        thread = threading.Thread(target=draw)
        thread.start()
        thread.join(0.3)
        assert thread.is_alive()
    thread.join(20)
    assert not thread.is_alive()
