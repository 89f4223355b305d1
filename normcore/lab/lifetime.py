"""Processes that end with the one that started them.

A build starts Snakemake, that ``normcore run``, that a notebook's kernel, that the workers of a sweep. A process that
is killed cannot end its children, so each child watches its parent. (A kernel does so by itself.)

    python -m normcore.lab.lifetime COMMAND ...   runs a command written in Python, so that it ends with its parent, too
"""

import os
import runpy
import shutil
import signal
import sys
import threading
import time

PARENT = "NORMCORE_PARENT"  # the process that ``normcore`` is to end with; where it is not set, it outlives its parent


def end_with(parent: int) -> None:
    """Send SIGTERM to this process as soon as ``parent`` is no longer its parent."""

    main = threading.main_thread()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
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
