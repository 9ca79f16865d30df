"""What a shard's log entries say, and what applying them does to a copy.

An entry holds the resolved effect of a request: values, versions (its own sn) and the answer that was or will be given.
Applying is a pure function of the entry and the copy's state, so copies that applied the same entries are equal byte for
byte. The primary and the store both use this module.

Source: replication.md, rules 1, 6 and 9.
"""

from __future__ import annotations

from enum import IntEnum

import msgspec
from msgspec import Struct

IDEMPOTENCY_KEPT_MS = 24 * 3600 * 1000
IDEMPOTENCY_ROWS_MAX = 10_000


class Answer(IntEnum):
    """What the client of a committed change is told; part of the log format."""

    CREATED = 1
    REPLACED = 2
    DELETED = 3
    IMPORTED = 4


class OperationId(Struct, frozen=True, array_like=True, gc=False):
    """Names one change of one gateway boot at one shard. Numbers count per (gateway boot, shard), from 1.

    ``lowest`` is the lowest number the gateway still has open at this shard: results below it are forgotten.
    """

    gateway: str
    number: int
    lowest: int


class IdempotencyKey(Struct, frozen=True, array_like=True, gc=False):
    """A client's own name for a change: per user, with a hash of the request to recognise another one under it."""

    user: str
    key: str
    request_hash: bytes


class Write(Struct, frozen=True, array_like=True, gc=False):
    """A document as it is from this entry on; ``value`` None deletes it."""

    user: str
    key: str
    value: bytes | None
    content_type: str = ""


class Begin(Struct, frozen=True, array_like=True, tag=0, gc=False):
    """The epoch-start record: the first entry of every epoch."""

    primary: str
    boot: str
    wall_ms: int


class Change(Struct, frozen=True, array_like=True, tag=1):
    """Writes of one request (an entry names a key at most once), with the answer it gets."""

    writes: tuple[Write, ...]
    answer: int
    wall_ms: int
    operation: OperationId | None = None
    idempotency: IdempotencyKey | None = None


class ForgetGateways(Struct, frozen=True, array_like=True, tag=2):
    """These gateway boots ended at map ``version``: their results go, and who serves must hold that version."""

    gateways: tuple[str, ...]
    version: int
    wall_ms: int


Body = Begin | Change | ForgetGateways

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Body] = msgspec.msgpack.Decoder(Body)


def encode(body: Body) -> bytes:
    """Return the payload of a shard entry."""
    return _encoder.encode(body)


def decode(payload: bytes) -> Body:
    """Return what a payload says. Raises ``msgspec.DecodeError`` on bytes that no node wrote."""
    return _decoder.decode(payload)


class Row(Struct, frozen=True, array_like=True, gc=False):
    """A stored document. ``version`` is the sn of the entry that last wrote it."""

    user: str
    key: str
    version: int
    modified_ms: int
    content_type: str
    value: bytes


class Remembered(Struct, frozen=True, array_like=True, gc=False):
    """What a change under an Idempotency-Key was answered."""

    user: str
    key: str
    request_hash: bytes
    answer: int
    sn: int
    wall_ms: int


class GatewayResults(Struct, array_like=True):
    """Results of one gateway boot: {number: (answer, sn)} from ``lowest`` up."""

    lowest: int
    results: dict[int, tuple[int, int]]


class CopyState(Struct, array_like=True):
    """What a copy remembers beside its documents; part of every snapshot.

    ``wall_ms_max`` is log time: the greatest wall time a primary has put into an entry. It decides no safety.
    ``ended_version`` is the newest map version that a ForgetGateways entry named.
    """

    gateways: dict[str, GatewayResults] = {}
    ended_version: int = 0
    wall_ms_max: int = 0

    def result(self, operation: OperationId) -> tuple[int, int] | None:
        """Return (answer, sn) of an operation that was applied and is still remembered."""
        kept = self.gateways.get(operation.gateway)
        return kept.results.get(operation.number) if kept else None

    def is_forgotten(self, operation: OperationId) -> bool:
        """Return whether the number is below what this gateway still had open: refused, never applied."""
        kept = self.gateways.get(operation.gateway)
        return kept is not None and operation.number < kept.lowest

    def apply(self, sn: int, body: Body) -> None:
        """Take in what an entry changes beside documents: operation results, gateway ends, log time."""
        if body.wall_ms > self.wall_ms_max:
            self.wall_ms_max = body.wall_ms
        if type(body) is Change:
            if body.operation is not None:
                self._remember(body.operation, body.answer, sn)
        elif type(body) is ForgetGateways:
            self.ended_version = max(self.ended_version, body.version)
            for gateway in body.gateways:
                self.gateways.pop(gateway, None)

    def _remember(self, operation: OperationId, answer: int, sn: int) -> None:
        kept = self.gateways.get(operation.gateway)
        if kept is None:
            kept = self.gateways[operation.gateway] = GatewayResults(operation.lowest, {})
        if operation.lowest > kept.lowest:
            kept.lowest = operation.lowest
            for number in tuple(kept.results):  # One or two: what a gateway has open at one shard.
                if number < operation.lowest:
                    del kept.results[number]
        if operation.number >= kept.lowest:
            kept.results[operation.number] = (answer, sn)

    def copy(self) -> CopyState:
        """Return an independent state with the same content."""
        gateways = {name: GatewayResults(kept.lowest, dict(kept.results)) for name, kept in self.gateways.items()}
        return CopyState(gateways, self.ended_version, self.wall_ms_max)


def remembered_since_ms(log_time_ms: int) -> int:
    """Return the wall time below which an Idempotency-Key is forgotten, given the copy's log time."""
    return log_time_ms - IDEMPOTENCY_KEPT_MS
