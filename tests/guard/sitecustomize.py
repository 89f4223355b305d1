"""On the path of a Python process, this keeps its sockets on this machine."""

import errno
import ipaddress
import socket
from typing import Any


def _here(host: Any) -> bool:
    try:
        return host in (None, "", b"", "localhost", socket.gethostname()) or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check(host: Any) -> None:
    if not _here(host):
        raise OSError(errno.ENETUNREACH, f"no network for the test: {host}")


class _Socket(socket.socket):
    def connect(self, address: Any) -> None:
        if self.family in (socket.AF_INET, socket.AF_INET6):
            _check(address[0])
        super().connect(address)

    def connect_ex(self, address: Any) -> int:
        if self.family in (socket.AF_INET, socket.AF_INET6) and not _here(address[0]):
            return errno.ENETUNREACH
        return super().connect_ex(address)


_resolve = socket.getaddrinfo


def _getaddrinfo(host: Any, *args: Any, **options: Any) -> Any:
    _check(host)
    return _resolve(host, *args, **options)


socket.socket, socket.getaddrinfo = _Socket, _getaddrinfo  # type: ignore[misc, assignment]
