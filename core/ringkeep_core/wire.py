"""How nodes greet each other and frame what they say over a peer connection.

A connection starts with one ``Hello`` each way, then carries frames one way, from the node that dialled:

    frame = version (1 byte) | sequence (4 bytes) | checksum (8 bytes) | body

The checksum is XXH3-64 of the body, seeded with the cluster id, so every frame carries the cluster it belongs to: bytes
of another cluster, a damaged, truncated, repeated or dropped frame are all refused by the same test, and the connection
is closed. Integers are little-endian. The body is a msgpack array of messages; ``ringkeep_node`` knows which.
"""

from __future__ import annotations

import struct

import msgspec
from msgspec import Struct
from xxhash import xxh3_64_intdigest

from ringkeep_core.errors import BadFrame

PROTOCOL_VERSION = 1
FRAME_BYTES_MAX = 16 << 20
HELLO_BYTES_MAX = 4096

_HEADER = struct.Struct("<BIQ")


class Hello(Struct, frozen=True, array_like=True, tag="hello"):
    """Who is on one end of a connection. ``cluster_id`` is "" while the node belongs to no cluster.

    ``counter`` is the boot counter; ``channel`` what the connection is for; ``weight`` the share of copies that the node
    asks for when a cluster is founded (0: a pure gateway).
    """

    version: int
    cluster_id: str
    name: str
    storage: str
    boot: str
    counter: int
    url: str
    peer: str
    zone: str
    channel: str
    weight: float = 1.0


_hello_encoder = msgspec.msgpack.Encoder()
_hello_decoder = msgspec.msgpack.Decoder(Hello)


def encode_hello(hello: Hello) -> bytes:
    """Return a greeting as bytes."""
    return _hello_encoder.encode(hello)


def decode_hello(data: bytes) -> Hello:
    """Return the greeting in ``data``; raise ``BadFrame`` if it is none or speaks another protocol version."""
    if len(data) > HELLO_BYTES_MAX:
        raise BadFrame(f"a greeting of {len(data)} bytes")
    try:
        hello = _hello_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise BadFrame("the greeting is not one of Ringkeep's") from error
    if hello.version != PROTOCOL_VERSION:
        raise BadFrame(f"the other side speaks protocol version {hello.version}, this node {PROTOCOL_VERSION}")
    return hello


def cluster_seed(cluster_id: str) -> int:
    """Return the checksum seed of a cluster."""
    return xxh3_64_intdigest(cluster_id.encode())


class FrameWriter:
    """Seals bodies for one connection, in order."""

    __slots__ = ("_seed", "_sequence")

    def __init__(self, cluster_id: str) -> None:
        self._seed = cluster_seed(cluster_id)
        self._sequence = 0

    def seal(self, body: bytes) -> bytes:
        """Return the frame that carries ``body``."""
        sequence = self._sequence
        self._sequence = (sequence + 1) & 0xFFFFFFFF
        return _HEADER.pack(PROTOCOL_VERSION, sequence, xxh3_64_intdigest(body, self._seed)) + body


class FrameReader:
    """Opens the frames of one connection and refuses whatever is not the next one of this cluster."""

    __slots__ = ("_seed", "_sequence")

    def __init__(self, cluster_id: str) -> None:
        self._seed = cluster_seed(cluster_id)
        self._sequence = 0

    def open(self, frame: bytes) -> memoryview:
        """Return the body of the next frame.

        Raises ``BadFrame``: the bytes are damaged, truncated, repeated, out of order, of another version or another
        cluster. Nothing was taken in; the caller closes the connection, the peer dials again.
        """
        if not _HEADER.size <= len(frame) <= FRAME_BYTES_MAX:
            raise BadFrame(f"a frame of {len(frame)} bytes")
        version, sequence, checksum = _HEADER.unpack_from(frame)
        if version != PROTOCOL_VERSION:
            raise BadFrame(f"a frame of protocol version {version}, this node speaks {PROTOCOL_VERSION}")
        if sequence != self._sequence:
            raise BadFrame(f"frame {sequence} where {self._sequence} was due")
        body = memoryview(frame)[_HEADER.size :]
        if xxh3_64_intdigest(body, self._seed) != checksum:
            raise BadFrame("the checksum does not match: damaged, or of another cluster")
        self._sequence = (sequence + 1) & 0xFFFFFFFF
        return body
