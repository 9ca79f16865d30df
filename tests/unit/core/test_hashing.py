"""Which shard a user belongs to is pinned for ever: by published XXH3-64 values and by our own table."""

import pytest
from xxhash import xxh3_64_intdigest

from ringkeep_core.hashing import SHARDS_MAX, SHARDS_MIN, is_shard_count, shard_of, user_hash

# The test values of XXH3-64 with seed 0 that its reference implementation publishes: lengths of one pseudo-random
# buffer, one or more for each of the function's branches by length.
PUBLISHED = {
    0: 0x2D06800538D394C2,
    1: 0xC44BDFF4074EECDB,
    6: 0x27B56A84CD2D7325,
    12: 0xA713DAF0DFBB77E7,
    24: 0xA3FE70BF9D3510EB,
    48: 0x397DA259ECBA1F11,
    80: 0xBCDEFBBB2C47C90A,
    195: 0xCD94217EE362EC3A,
    403: 0xCDEB804D65C6DEA4,
    512: 0x617E49599013CB6B,
    2048: 0xDD59E2C3A5F038E0,
    2240: 0x6E73A90539CF2948,
    2367: 0xCB37AEB9E5D361ED,
}

# Users and their hashes, computed once: all lengths at which XXH3-64 changes its ways, ASCII and beyond, no
# normalisation (the two spellings of an accented e are two users).
USERS = [
    ("a", 0xE6C632B61E964E1F),
    ("b", 0x575A0B1C44D8843F),
    ("z", 0x54A7D9DDE88EADB0),
    ("0", 0x1982E3A7BB241055),
    ("user", 0x99E389D25C10AF32),
    ("alice", 0x4DA10DD61A0116B0),
    ("bob", 0x1403C0C40F49B8E5),
    ("N14228", 0x045BF808CE8196A6),
    ("N24211", 0xC234941FE43D3ADD),
    ("user-1", 0x7C7615C11438E5C9),
    ("user-2", 0x20333BB6481664D4),
    ("user-3", 0xA67A7F4DF31CF255),
    ("user/with/slashes", 0xE528D2F51200621D),
    ("user with spaces", 0x66F4DAA6964CF4B7),
    ("ALICE", 0xDB117FC1E99ACBBE),
    ("\xe9", 0xF7940A006CF10CB3),
    ("e\u0301", 0xDC0BA6F9447885A8),
    ("\xfc\xf1\xed\xe7\xf8d\xe9", 0x0CFD68754F220128),
    ("\u65e5\u672c\u8a9e", 0x11FEC42C806050B7),
    ("\u0430\u043b\u0438\u0441\u0430", 0xA77DFCB60C52DE1A),
    ("\U0001f600", 0x0B4FECF421A0808E),
    ("a\U0001f600b", 0xC46D381E82812269),
    ("\x7f", 0x2A140471F45FF181),
    ("%2F", 0xFFEE2A948E76E017),
    ("xx", 0xA71A746CF0841EBD),
    ("xxx", 0x75920D64D617A183),
    ("xxxx", 0xC39F76E8799DD0CC),
    ("xxxxx", 0x6351934F6A1AA938),
    ("xxxxxxx", 0x217E3DAA017B020A),
    ("xxxxxxxx", 0x4267E87C9CB0BC97),
    ("xxxxxxxxx", 0x7BD3D408882C63A9),
    ("xxxxxxxxxxxxxxx", 0xF5CD669FCB7FBD54),
    ("xxxxxxxxxxxxxxxx", 0xDF76FF0D7F0D9EDF),
    ("xxxxxxxxxxxxxxxxx", 0x89975E6B7D2F5A11),
    ("x" * 31, 0x987FADAA1D896370),
    ("x" * 32, 0x4E0C9E78CF63407F),
    ("x" * 33, 0xB2F838286AD45E97),
    ("x" * 63, 0x0041439633520DDE),
    ("x" * 64, 0x269CB9F6ACF81244),
    ("x" * 65, 0xF98431ABCF1929F2),
    ("x" * 127, 0x99DDE0B06E02B4AE),
    ("x" * 128, 0x4CA37E83F6CDDD17),
    ("x" * 129, 0xE4F9742108FE27DC),
    ("x" * 130, 0x3EC52812BA5FF533),
    ("x" * 192, 0x70E800B32A5623FC),
    ("x" * 239, 0x94641F36CAD96CD2),
    ("x" * 240, 0x3E16CA8A0C6CCB68),
    ("x" * 241, 0x14DA9E5C301A6A1D),
    ("x" * 255, 0x2BE953982AC8BD9D),
    ("x" * 256, 0xD1D05738849BAEC9),
]


def _pseudo_random(length: int) -> bytes:
    """Return the buffer of the published values: the top byte of a number multiplied by a 64-bit prime at each step."""
    number, data = 2_654_435_761, bytearray()
    for _ in range(length):
        data.append(number >> 56)
        number = number * 11_400_714_785_074_694_797 % (1 << 64)
    return bytes(data)


@pytest.mark.parametrize("length", PUBLISHED)
def test_the_hash_function_gives_the_published_values(length: int) -> None:
    assert xxh3_64_intdigest(_pseudo_random(length)) == PUBLISHED[length]


@pytest.mark.parametrize(("user", "expected"), USERS, ids=lambda value: ascii(value)[:24])
def test_a_users_hash_never_changes(user: str, expected: int) -> None:
    assert user_hash(user) == expected


@pytest.mark.parametrize("shards", [16, 256, 1024, 65_536])
def test_a_shard_is_the_top_bits_of_the_hash(shards: int) -> None:
    bits = shards.bit_length() - 1

    assert [shard_of(user, shards) for user, _ in USERS] == [expected >> 64 - bits for _, expected in USERS]


def test_the_shards_of_some_users_are_pinned() -> None:
    assert {user: shard_of(user, 256) for user in ("alice", "bob", "N14228", "N24211")} == {
        "alice": 77,
        "bob": 20,
        "N14228": 4,
        "N24211": 194,
    }


def test_users_spread_evenly_over_the_shards() -> None:
    counts = [0] * 64
    for number in range(6_400):
        counts[shard_of(f"user-{number}", 64)] += 1

    assert min(counts) > 60 and max(counts) < 150


def test_a_cluster_has_a_power_of_two_of_shards_from_16_to_65_536() -> None:
    good = [shards for shards in range(-1, SHARDS_MAX * 2 + 1) if is_shard_count(shards)]

    assert good == [1 << bits for bits in range(4, 17)]
    assert (good[0], good[-1]) == (SHARDS_MIN, SHARDS_MAX)
