"""Taking the addresses of a node, with a sentence for a person when that fails."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import TypeVar

from ringkeep_core.errors import PortInUse, StartRefused

BACKLOG = 1024
P = TypeVar("P", bound=asyncio.DatagramProtocol)


async def listen(
    protocol: Callable[[], asyncio.BaseProtocol], host: str, port: int, setting: str
) -> tuple[asyncio.Server, int]:
    """Take a TCP address; return the server, which does not serve yet, and the port (the system chooses one for 0).

    ``setting`` names the environment variable in the sentence. Raises ``PortInUse``, ``StartRefused``.
    """
    loop = asyncio.get_running_loop()
    try:
        server = await loop.create_server(
            protocol, host, port, backlog=BACKLOG, reuse_address=True, start_serving=False
        )
    except OSError as error:
        raise _refusal(error, "TCP", host, port, setting) from error
    return server, int(server.sockets[0].getsockname()[1])


async def open_datagrams(
    protocol: Callable[[], P], host: str, port: int, setting: str
) -> tuple[asyncio.DatagramTransport, P]:
    """Open a UDP endpoint. Raises ``PortInUse``, ``StartRefused``."""
    loop = asyncio.get_running_loop()
    try:
        return await loop.create_datagram_endpoint(protocol, local_addr=(host, port))
    except OSError as error:
        raise _refusal(error, "UDP", host, port, setting) from error


def _refusal(error: OSError, kind: str, host: str, port: int, setting: str) -> StartRefused:
    if _number_of(error) == errno.EADDRINUSE:
        return PortInUse(f"another process uses {kind} {host}:{port} ({setting})")
    if isinstance(error, socket.gaierror):
        return StartRefused(f"the host of {host}:{port} ({setting}) is not known")
    return StartRefused(f"cannot listen on {kind} {host}:{port} ({setting}): {error.strerror or error}")


def _number_of(error: BaseException) -> int | None:
    """Return the error number; uvloop wraps the system's error in one without a number."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno is not None:
            return cause.errno
        cause = cause.__cause__ or cause.__context__
    return None
