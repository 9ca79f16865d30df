"""Bundles: what one turn says to a peer arrives whole and in order, in frames that the peer takes."""

from __future__ import annotations

import pytest

from ringkeep_core.errors import BadFrame
from ringkeep_core.wire import FRAME_BYTES_MAX, FrameReader, FrameWriter
from ringkeep_node.machines.documents import Write
from ringkeep_node.machines.messages import (
    BODY_BYTES_MAX,
    Bundle,
    ForwardWrite,
    MapPull,
    decode_bundle,
    encode_bundle,
    encode_bundles,
)
from ringkeep_node.machines.raft.messages import Heartbeat
from ringkeep_node.machines.shard.effects import WriteRequest
from ringkeep_node.machines.shard.messages import Append, Ping

CLUSTER = "c" * 16


def forward(token: int, size: int) -> ForwardWrite:
    """A forwarded change of one document of so many bytes."""
    request = WriteRequest((Write("u", f"k{token}", bytes(size), "t"),), 60.0, 1)
    return ForwardWrite(token, 0, request, 5.0, 1)


def test_a_bundle_comes_out_as_it_went_in() -> None:
    bundle = Bundle(node=[MapPull(3)], raft=[Heartbeat(1, 2, 3)], shard=[Ping(1, "b" * 16, 9)])

    assert decode_bundle(encode_bundle(bundle)) == bundle
    assert encode_bundles(bundle) == [encode_bundle(bundle)]


def test_twenty_puts_of_a_mebibyte_to_one_peer_are_several_frames_in_order() -> None:
    bundle = Bundle(node=[forward(token, 1 << 20) for token in range(20)])
    writer, reader = FrameWriter(CLUSTER), FrameReader(CLUSTER)

    frames = [writer.seal(body) for body in encode_bundles(bundle)]
    heard = [message for frame in frames for message in decode_bundle(reader.open(frame)).node]

    assert heard == bundle.node
    assert max(len(frame) for frame in frames) <= BODY_BYTES_MAX + 1024 < FRAME_BYTES_MAX


def test_a_large_bundle_of_all_kinds_keeps_the_order_node_raft_shard() -> None:
    entries = tuple((1, bytes(1 << 20)) for _ in range(4))
    bundle = Bundle(
        node=[forward(1, 1 << 20), forward(2, 1 << 20)],
        raft=[Heartbeat(1, 2, 3)],
        shard=[Append(shard, 1, 1, 0, 0, entries) for shard in range(5)],
    )

    parts = [decode_bundle(body) for body in encode_bundles(bundle)]

    assert len(parts) > 1
    assert [message for part in parts for message in part.node] == bundle.node
    assert [message for part in parts for message in part.raft] == bundle.raft
    assert [message for part in parts for message in part.shard] == bundle.shard
    kinds = [kind for part in parts for kind, said in enumerate((part.node, part.raft, part.shard)) if said]
    assert kinds == sorted(kinds)


def test_a_single_message_above_the_size_travels_alone() -> None:
    huge = Append(0, 1, 1, 0, 0, tuple((1, bytes(1 << 20)) for _ in range(9)))

    bodies = encode_bundles(Bundle(shard=[huge, Ping(1, "b" * 16, 9)]))

    assert [decode_bundle(body).shard for body in bodies] == [[huge], [Ping(1, "b" * 16, 9)]]


@pytest.mark.parametrize("body", [b"", b"\xc1", b"\x93\x91\x92\x63\x01\x90\x90", b"\x93\x90\x90", b"\xff" * 20])
def test_a_body_that_this_version_does_not_know_is_refused(body: bytes) -> None:
    with pytest.raises(BadFrame):
        decode_bundle(body)
