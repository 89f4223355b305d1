"""Commands that reach no machine but this one: in a network namespace of their own, or behind a guard in Python."""

import fcntl
import functools
import os
import shutil
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path


def run(command: Sequence[str], cwd: Path, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run a command offline; loopback is there, for a kernel and what talks to it.

    Where no namespace may be made, only the Python processes among its children are kept in.
    """
    inside, env = [*namespace(), sys.executable, __file__] if namespace() else [], dict(env)
    if not inside:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(GUARD), env.get("PYTHONPATH", "")]))
    return subprocess.run([*inside, *command], cwd=cwd, env=env, capture_output=True, text=True)


GUARD = Path(__file__).resolve().parent / "guard"  # its sitecustomize.py


@functools.cache
def namespace() -> list[str]:
    """The command that gives another one a network namespace, where it may."""
    for options in ["--net"], ["--map-root-user", "--net"]:
        command = [shutil.which("unshare") or "unshare", *options]
        try:
            subprocess.run([*command, sys.executable, __file__, "true"], check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            continue
        return command
    return []


def _loopback_up() -> None:
    set_flags, up = 0x8914, 1  # SIOCSIFFLAGS, IFF_UP
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, set_flags, struct.pack("16sH14x", b"lo", up))


if __name__ == "__main__":
    _loopback_up()
    os.execvp(sys.argv[1], sys.argv[1:])
