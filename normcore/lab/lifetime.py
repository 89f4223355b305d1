"""Processes that end with the one that started them, and that end well when they are told to.

A build starts Snakemake, that ``normcore run``, that a notebook's kernel, that the workers of a sweep. A process that
is killed cannot end its children, so each child watches its parent. (A kernel does so by itself.) A scheduler whose
time is over sends SIGTERM to one of them or to all, and SIGKILL after a grace time; training saves its state between.

    python -m normcore.lab.lifetime COMMAND ...   runs a command written in Python, so that it ends with its parent, too
"""

import os
import runpy
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

GRACE = 20.0  # seconds from being told to stop to being killed; a scheduler's is 30 and more
WATCH_EVERY = 1.0  # seconds
PARENT = "NORMCORE_PARENT"  # the process that ``normcore`` is to end with; where it is not set, it outlives its parent
_told = threading.Event()


def told_to_stop() -> bool:
    """Whether SIGTERM came within a block of :func:`stopping_well`: time to save what there is and to return."""
    return _told.is_set()


@contextmanager
def stopping_well(tell: Callable[[], object] = lambda: None) -> Iterator[None]:
    """Within the block SIGTERM ends nothing: :func:`told_to_stop` says that it came, and ``tell`` is called.

    A thread that is not the main one cannot take a signal: there the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(*_: object) -> None:
        _told.set()
        tell()

    handler = signal.signal(signal.SIGTERM, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        _told.clear()


@contextmanager
def children_stopping_well() -> Iterator[None]:
    """Within the block SIGTERM is passed on to the children, who have the grace time to stop well. After that, or where
    they end by it without a word, this process ends, with exit code 143."""

    import psutil  # here, since every command imports this module

    def leave(*_: object) -> None:
        raise SystemExit(128 + signal.SIGTERM)

    def tell() -> None:
        for child in psutil.Process().children():
            child.terminate()
        signal.signal(signal.SIGALRM, leave)
        signal.setitimer(signal.ITIMER_REAL, 1.5 * GRACE)  # they may have children of their own to wait for

    with stopping_well(tell):
        try:
            yield
        finally:
            if told_to_stop():
                signal.setitimer(signal.ITIMER_REAL, 0)


def end_with(parent: int) -> None:
    """Send SIGTERM to this process as soon as ``parent`` is no longer its parent."""

    main = threading.main_thread()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(WATCH_EVERY)
        signal.pthread_kill(main.ident or 0, signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def end_well() -> None:
    """Have SIGTERM unwind the program, so that it ends its kernel and takes its temporary files away, with exit code
    143; and end with the process that ``NORMCORE_PARENT`` names, if it names one."""

    def stop(*_: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once: unwinding is not to be interrupted
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, stop)
    parent = os.environ.pop(PARENT, "")  # not for the children, whose parent is another
    if parent:
        end_with(int(parent))


if __name__ == "__main__":
    end_well()
    del sys.argv[0]
    runpy.run_path(shutil.which(sys.argv[0]) or sys.argv[0], run_name="__main__")
