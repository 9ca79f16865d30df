"""Frames and greetings: what is not the next frame of this cluster is refused, and nothing of it is taken in."""

from __future__ import annotations

import pytest

from ringkeep_core.errors import BadFrame
from ringkeep_core.wire import (
    FRAME_BYTES_MAX,
    HELLO_BYTES_MAX,
    PROTOCOL_VERSION,
    FrameReader,
    FrameWriter,
    Hello,
    decode_hello,
    encode_hello,
)

CLUSTER = "00000000000000aa"
HELLO = Hello(
    PROTOCOL_VERSION, CLUSTER, "n1", "0000000000000001", "00000000000000b1", 3, "http://h:8080", "h:7400", "z", "data"
)


def test_frames_come_out_as_they_went_in_and_in_order() -> None:
    writer, reader = FrameWriter(CLUSTER), FrameReader(CLUSTER)

    bodies = [bytes(reader.open(writer.seal(body))) for body in (b"one", b"", b"three")]

    assert bodies == [b"one", b"", b"three"]


def test_a_repeated_frame_is_refused() -> None:
    writer, reader = FrameWriter(CLUSTER), FrameReader(CLUSTER)
    frame = writer.seal(b"one")
    reader.open(frame)

    with pytest.raises(BadFrame, match="frame 0 where 1 was due"):
        reader.open(frame)


def test_a_dropped_frame_is_noticed_at_the_next_one() -> None:
    writer, reader = FrameWriter(CLUSTER), FrameReader(CLUSTER)
    writer.seal(b"lost")

    with pytest.raises(BadFrame, match="frame 1 where 0 was due"):
        reader.open(writer.seal(b"next"))


def test_a_refused_frame_changes_nothing_the_right_one_still_fits() -> None:
    writer, reader = FrameWriter(CLUSTER), FrameReader(CLUSTER)
    frame = writer.seal(b"one")
    with pytest.raises(BadFrame):
        reader.open(frame[:-1])

    assert bytes(reader.open(frame)) == b"one"


@pytest.mark.parametrize("place", [*range(13), 13, 20])
def test_any_flipped_bit_is_refused(place: int) -> None:
    frame = bytearray(FrameWriter(CLUSTER).seal(b"some bytes"))
    frame[place] ^= 0x10

    with pytest.raises(BadFrame):
        FrameReader(CLUSTER).open(bytes(frame))


@pytest.mark.parametrize("size", [0, 1, 12])
def test_a_frame_shorter_than_its_header_is_refused(size: int) -> None:
    with pytest.raises(BadFrame, match=f"a frame of {size} bytes"):
        FrameReader(CLUSTER).open(bytes(size))


def test_a_frame_above_the_limit_is_refused() -> None:
    with pytest.raises(BadFrame, match="a frame of"):
        FrameReader(CLUSTER).open(bytes(FRAME_BYTES_MAX + 1))


def test_a_frame_of_another_cluster_is_refused() -> None:
    frame = FrameWriter("00000000000000bb").seal(b"one")

    with pytest.raises(BadFrame, match="another cluster"):
        FrameReader(CLUSTER).open(frame)


def test_a_frame_of_another_version_names_both_versions() -> None:
    frame = b"\x07" + FrameWriter(CLUSTER).seal(b"one")[1:]

    with pytest.raises(BadFrame, match="protocol version 7, this node speaks 1"):
        FrameReader(CLUSTER).open(frame)


def test_a_greeting_comes_out_as_it_went_in() -> None:
    assert decode_hello(encode_hello(HELLO)) == HELLO


@pytest.mark.parametrize("data", [b"", b"\x00", b"GET / HTTP/1.1\r\n", encode_hello(HELLO)[:-1], b"\xff" * 40])
def test_bytes_that_are_no_greeting_are_refused(data: bytes) -> None:
    with pytest.raises(BadFrame):
        decode_hello(data)


def test_a_greeting_above_the_limit_is_refused() -> None:
    with pytest.raises(BadFrame, match="a greeting of"):
        decode_hello(bytes(HELLO_BYTES_MAX + 1))


def test_a_greeting_of_another_protocol_version_is_refused_with_both_versions() -> None:
    hello = Hello(2, CLUSTER, "n1", "0000000000000001", "00000000000000b1", 3, "u", "p", "z", "data")

    with pytest.raises(BadFrame, match="protocol version 2, this node 1"):
        decode_hello(encode_hello(hello))
