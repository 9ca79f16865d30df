"""Free ports on the loopback address."""

from __future__ import annotations

import socket
from collections.abc import Container

HOST = "127.0.0.1"
API_PORT_FIRST = 8081
PEER_PORT_FIRST = 7401
PORT_LAST = 65_535


def is_free(port: int) -> bool:
    """Return whether a node could listen on this port, with TCP and with UDP."""
    with (
        socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagram,
    ):
        # As servers do: a connection in TIME_WAIT does not make a port taken.
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            stream.bind((HOST, port))
            stream.listen(1)
            datagram.bind((HOST, port))
        except OSError:
            return False
    return True


def next_free(first: int, taken: Container[int]) -> int:
    """Return the smallest free port from ``first`` on that is not ``taken``.

    Raises ``OSError`` if there is none, which takes a machine with tens of thousands of listeners.
    """
    for port in range(first, PORT_LAST + 1):
        if port not in taken and is_free(port):
            return port
    raise OSError(f"no free port from {first} on")
