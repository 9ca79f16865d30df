"""Peer links: the WebSocket connections over which nodes send each other frames.

A link goes one way, from the node that dialled, and there is one for each of the three channels to each peer, so that a
snapshot never delays a vote. What a peer has to say comes over the links that it dialled. A link greets, checks who
answers, then writes one frame per loop turn, however many messages that turn brought.

    down --dial--> greeting --right node, same cluster--> up --end of connection--> down (dials again at once)

A link that cannot be written keeps at most ``OUTBOX_BYTES_MAX``; beyond that it is broken off and the protocols, which
all resend, start over. One whose peer acknowledges nothing for ``UNACKNOWLEDGED_S`` ends too: where packets are lost, as
to a pod that is gone with its address, TCP would try for a quarter of an hour, ever less often. How a dial fails is
evidence for the failure detector: refused, reset, unreachable.
"""

from __future__ import annotations

import asyncio
import errno
import socket as system_socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import aiohttp
from aiohttp import web

from ringkeep_core.errors import BadFrame, ForeignCluster
from ringkeep_core.wire import FRAME_BYTES_MAX, FrameReader, FrameWriter, Hello, decode_hello, encode_hello
from ringkeep_node.machines.messages import Channel
from ringkeep_node.metrics import Traffic

OUTBOX_BYTES_MAX: Final = 160 << 20
"""Above what replication can have for one peer at once: its cache (64 MiB) and a chunk from disk for each shard."""
KEPT_BYTES_MAX: Final = 64 << 10
DIAL_TIMEOUT_S: Final = 2.0
CLOSE_TIMEOUT: Final = aiohttp.ClientWSTimeout(ws_close=1.0)
"""How long a link that is given up waits for its peer to say goodbye."""
UNACKNOWLEDGED_S: Final = 5.0
"""Longer than silence makes a member dead, so that it ends no link of one that lives."""
NAMES_KNOWN_S: Final = 3
"""How long the address of a name is believed: pods and machines get new ones."""
REDIAL_FIRST_S: Final = 0.05
REDIAL_MOST_S: Final = 1.0
HELLO_CHANNEL: Final = "hello"
FOUNDED_CHANNEL: Final = "founded:"
"""Followed by the storage id that a bootstrap named: its founder tells that member of the cluster."""

HUNG_UP: Final = (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSING, aiohttp.WSMsgType.CLOSED)

HARD_EVIDENCE: Final[Mapping[int, str]] = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "reset",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
}


class LinkEvents:
    """What links tell their owner; all calls come from the loop thread. Subclass or assign."""

    def met(self, hello: Hello) -> None:
        """A node of this cluster dialled us: it can be dialled back, before the map names it."""

    def frame(self, hello: Hello, channel: Channel, body: memoryview) -> None:
        """A frame of a greeted peer arrived."""

    def up(self, storage: str, boot: str, channel: Channel) -> None:
        """A link to a peer can be written."""

    def down(self, storage: str, channel: Channel, evidence: str) -> None:
        """A link was lost or could not be made; evidence is refused, reset, unreachable, closed or timeout."""

    def stranger(self, address: str, reason: str) -> None:
        """Somebody was refused."""

    def founded(self, cluster_id: str) -> None:
        """A founder told us, by our storage id, that its bootstrap has made us a member."""


async def greet(session: aiohttp.ClientSession, address: str, hello: Hello) -> Hello:
    """Exchange greetings with whoever listens at ``address`` and hang up. Raises ``OSError`` or ``BadFrame``."""
    async with asyncio.timeout(DIAL_TIMEOUT_S), session.ws_connect(f"http://{address}/peer", compress=0) as socket:
        await socket.send_bytes(encode_hello(hello))
        return decode_hello(await socket.receive_bytes())


class Link:
    """The outgoing connection to one peer on one channel."""

    def __init__(self, links: PeerLinks, storage: str, channel: Channel) -> None:
        self.storage, self.channel = storage, channel
        self.address = ""
        self.is_up = False
        self._links = links
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._wake = asyncio.Event()
        self._redial = asyncio.Event()
        self._writing: asyncio.Task[None] | None = None
        self._task = asyncio.create_task(self._run(), name=f"link {storage} {channel.name}")

    def send(self, body: bytes) -> None:
        """Queue the body of a frame; dropped while the link is down (every protocol above resends).

        A little control traffic is kept while the link is being made: a vote that gets lost there costs an election.
        """
        if not self.is_up and (self.channel is not Channel.CONTROL or self._outbox_bytes > KEPT_BYTES_MAX):
            return
        self._outbox.append(body)
        self._outbox_bytes += len(body)
        if self._outbox_bytes > OUTBOX_BYTES_MAX:
            self._break_off()
        self._wake.set()

    def dial_now(self) -> None:
        """Do not wait for the next redial: there is reason to think that the peer is back."""
        self._redial.set()

    def move(self, address: str) -> None:
        """Dial another address from now on.

        A connection to the old one is given up: whoever had that address may be gone without having closed anything,
        and the system would go on trying to reach it for a quarter of an hour.
        """
        self.address = address
        self._break_off()
        self._wake.set()
        self.dial_now()

    def _break_off(self) -> None:
        self.is_up = False
        self._outbox.clear()
        self._outbox_bytes = 0
        if self._writing is not None:
            self._writing.cancel()  # It may wait for room in a connection that nobody reads.

    async def close(self) -> None:
        """End the link and its task."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        pause_s = 0.0
        while True:
            was_up = await self._connect_and_write()
            pause_s = 0.0 if was_up else min(REDIAL_MOST_S, max(REDIAL_FIRST_S, pause_s * 2))
            self._redial.clear()
            if pause_s:
                try:
                    async with asyncio.timeout(pause_s * (0.75 + self._links.draw() / 2)):
                        await self._redial.wait()
                except TimeoutError:
                    pass

    async def _connect_and_write(self) -> bool:
        """Dial once and write until the connection ends. Returns whether the link was up."""
        evidence, was_up, address = "closed", False, self.address
        try:
            async with asyncio.timeout(DIAL_TIMEOUT_S) as dialling:
                async with self._links.session.ws_connect(
                    f"http://{address}/peer", compress=0, max_msg_size=FRAME_BYTES_MAX, timeout=CLOSE_TIMEOUT
                ) as socket:
                    hello = await self._greet(socket)
                    dialling.reschedule(None)
                    if self.address != address:
                        return False  # It was told to move while it dialled.
                    was_up = self.is_up = True
                    self._links.events.up(self.storage, hello.boot, self.channel)
                    await self._write_until_end(socket, hello)
        except (BadFrame, ForeignCluster) as error:
            self._links.events.stranger(self.address, error.detail)
            evidence = "stranger"
        except TimeoutError:
            evidence = "timeout"
        except (OSError, aiohttp.ClientError) as error:
            evidence = evidence_of(error)
        finally:
            self._break_off()
            if self._links.is_open:
                self._links.events.down(self.storage, self.channel, evidence)
        return was_up

    async def _greet(self, socket: aiohttp.ClientWebSocketResponse) -> Hello:
        await socket.send_bytes(encode_hello(self._links.hello(self.channel.name.lower())))
        message = await socket.receive()
        if message.type in HUNG_UP:
            raise ConnectionError(f"{self.address} hung up instead of greeting")
        if message.type is not aiohttp.WSMsgType.BINARY:
            raise BadFrame(f"{self.address} said something instead of greeting")
        hello = decode_hello(message.data)
        if hello.storage != self.storage:
            raise BadFrame(f"{self.address} is storage {hello.storage}, not {self.storage}")
        if not hello.cluster_id:
            raise ConnectionError(f"{self.address} belongs to no cluster yet")
        if hello.cluster_id != self._links.hello("").cluster_id:
            raise ForeignCluster(f"{self.address} belongs to cluster {hello.cluster_id or 'none'}")
        return hello

    async def _write_until_end(self, socket: aiohttp.ClientWebSocketResponse, hello: Hello) -> None:
        _end_what_is_unacknowledged(socket)
        ended = asyncio.create_task(socket.receive())
        writing = self._writing = asyncio.create_task(self._write(socket, FrameWriter(hello.cluster_id)))
        try:
            await asyncio.wait((ended, writing), return_when=asyncio.FIRST_COMPLETED)
            if writing.done() and not writing.cancelled():
                writing.result()
        finally:
            self._writing = None
            for task in (ended, writing):
                task.cancel()
            await asyncio.gather(ended, writing, return_exceptions=True)

    async def _write(self, socket: aiohttp.ClientWebSocketResponse, writer: FrameWriter) -> None:
        """Write what is queued until cancelled."""
        traffic = self._links.traffic
        while True:
            if not self._outbox:
                self._wake.clear()
                await self._wake.wait()
                continue
            bodies, self._outbox, self._outbox_bytes = self._outbox, [], 0
            for body in bodies:
                traffic.sent += 1
                traffic.sent_bytes += len(body)
                await socket.send_bytes(writer.seal(body))


class PeerLinks:
    """All outgoing links of a node, and the handler for incoming ones."""

    def __init__(self, hello: Callable[[str], Hello], events: LinkEvents, draw: Callable[[], float]) -> None:
        self.hello, self.events, self.draw = hello, events, draw
        self.is_open = True
        self.traffic = Traffic()
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, force_close=True, ttl_dns_cache=NAMES_KNOWN_S),
            timeout=aiohttp.ClientTimeout(total=None),
        )
        self._links: dict[tuple[str, Channel], Link] = {}
        self._incoming: set[web.WebSocketResponse] = set()
        self._newest: dict[tuple[str, str], web.WebSocketResponse] = {}
        self._closing: set[asyncio.Future[bool]] = set()

    def set_peers(self, addresses: Mapping[str, str]) -> list[Awaitable[None]]:
        """Keep links to exactly these peers (storage id -> host:port). Returns the closing of the others."""
        closing: list[Awaitable[None]] = []
        for storage, channel in list(self._links):
            if storage not in addresses:
                closing.append(self._links.pop((storage, channel)).close())
        for storage, address in addresses.items():
            for channel in Channel:
                link = self._links.get((storage, channel)) or Link(self, storage, channel)
                if link.address != address:
                    link.move(address)
                self._links[storage, channel] = link
        return closing

    def send(self, storage: str, channel: Channel, body: bytes) -> None:
        """Send the body of a frame to a peer, if the link is up."""
        link = self._links.get((storage, channel))
        if link is not None:
            link.send(body)

    def dial_now(self, storage: str) -> None:
        """Redial a peer that was seen alive."""
        for channel in Channel:
            link = self._links.get((storage, channel))
            if link is not None and not link.is_up:
                link.dial_now()

    def is_up(self, storage: str, channel: Channel) -> bool:
        """Return whether the link can be written."""
        link = self._links.get((storage, channel))
        return link is not None and link.is_up

    async def accept(self, request: web.BaseRequest) -> web.StreamResponse:
        """Serve a connection that a peer dialled: greet, then hand on its frames until it ends."""
        socket = web.WebSocketResponse(compress=False, max_msg_size=FRAME_BYTES_MAX, autoping=True)
        if request.path != "/peer" or not socket.can_prepare(request):
            return web.Response(status=404, text="this is the peer port of a Ringkeep node; REST is on its API port\n")
        try:
            await socket.prepare(request)
        except ConnectionError:
            return web.Response(status=400)  # It hung up before it was greeted: nobody reads this.
        self._incoming.add(socket)
        try:
            await self._serve(socket)
        except (BadFrame, ForeignCluster) as error:
            self.events.stranger(str(request.remote), error.detail)
        except (TimeoutError, OSError, aiohttp.ClientError):
            pass  # The peer dials again; its own link tells it how this one ended.
        finally:
            self._incoming.discard(socket)
            await socket.close()
        return socket

    async def _serve(self, socket: web.WebSocketResponse) -> None:
        async with asyncio.timeout(DIAL_TIMEOUT_S):
            first = await socket.receive()
            if first.type in HUNG_UP:
                return
            if first.type is not aiohttp.WSMsgType.BINARY:
                raise BadFrame("no greeting")
            theirs = decode_hello(first.data)
            ours = self.hello(theirs.channel)
            await socket.send_bytes(encode_hello(ours))
        if theirs.channel == HELLO_CHANNEL:
            return
        if theirs.channel == FOUNDED_CHANNEL + ours.storage:
            self.events.founded(theirs.cluster_id)
            return
        if not ours.cluster_id:
            return  # We cannot tell yet who belongs to us: it hangs up too, and dials again.
        if theirs.cluster_id != ours.cluster_id:
            raise ForeignCluster(f"{theirs.name} belongs to cluster {theirs.cluster_id or 'none'}")
        channel = Channel[theirs.channel.upper()] if theirs.channel.upper() in Channel.__members__ else None
        if channel is None:
            raise BadFrame(f"there is no channel {theirs.channel!r}")
        self._replace((theirs.storage, theirs.channel), socket)
        self.events.met(theirs)
        reader, traffic = FrameReader(ours.cluster_id), self.traffic
        while (message := await socket.receive()).type is aiohttp.WSMsgType.BINARY:
            body = reader.open(message.data)
            traffic.received += 1
            traffic.received_bytes += len(body)
            self.events.frame(theirs, channel, body)
        if message.type not in HUNG_UP:
            raise BadFrame("a frame that is not binary")

    def _replace(self, key: tuple[str, str], socket: web.WebSocketResponse) -> None:
        # A peer that dials again has given its older connection up, even if that has not ended yet here.
        older = self._newest.get(key)
        self._newest[key] = socket
        if older is not None and older in self._incoming:
            self._incoming.discard(older)
            task = asyncio.ensure_future(older.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """End all links and connections."""
        self.is_open = False
        await asyncio.gather(*self.set_peers({}))
        await asyncio.gather(*(socket.close() for socket in list(self._incoming)), return_exceptions=True)
        await self.session.close()


def _end_what_is_unacknowledged(socket: aiohttp.ClientWebSocketResponse) -> None:
    """Have the system end a connection whose peer acknowledges nothing for long (tcp(7), RFC 5482); Linux only."""
    option = getattr(system_socket, "TCP_USER_TIMEOUT", None)
    connection = socket.get_extra_info("socket")
    if option is not None and connection is not None:
        connection.setsockopt(system_socket.IPPROTO_TCP, option, int(1000 * UNACKNOWLEDGED_S))


def evidence_of(error: BaseException) -> str:
    """Return what a failed dial or a broken link says about the peer."""
    cause: BaseException | None = error
    while cause is not None:
        number = getattr(cause, "errno", None)
        if isinstance(number, int) and number in HARD_EVIDENCE:
            return HARD_EVIDENCE[number]
        cause = cause.__cause__ or cause.__context__
    return "closed"
