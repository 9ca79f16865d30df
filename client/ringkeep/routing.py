"""Which node a request goes to: the cached map, and which addresses lately failed.

Pure: the clock and the random draw come in. A wrong choice is never wrong for the data, because any node takes any
request; it only costs a hop.

    first try    the primary that the cached map names, unless its address lately failed
    later tries  the same rule (the map may be newer by now), but never an address twice in a row
    no map       any address

A client belongs to one cluster for ever: the one it was told, else the one that its first answer names. An address may
come to belong to a node of another one, so what such a node says is not taken for ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from ringkeep.answers import ShardMap
from ringkeep_core.hashing import shard_of

AVOID_FIRST_S = 0.5
AVOID_MAX_S = 8.0
# Trying a silent node again costs a whole attempt, a refused connection costs nothing.
AVOID_SILENT_S = 5.0
AVOID_FOREIGN_S = AVOID_MAX_S
"""A node of another cluster that got the address of one of ours keeps it for long."""


class _Avoided(msgspec.Struct, frozen=True):
    until: float
    span_s: float


class Routes:
    """The addresses of a cluster and what is known about them."""

    def __init__(self, seeds: Iterable[str], *, cluster: str = "") -> None:
        self._seeds = tuple(dict.fromkeys(url.rstrip("/") for url in seeds))
        assert self._seeds, "a client needs at least one address"
        self._addresses = self._seeds
        self._primary_urls: tuple[str | None, ...] = ()
        self._epochs: tuple[int, ...] = ()
        self._avoided: dict[str, _Avoided] = {}
        self.strangers: dict[str, str] = {}
        """The addresses that belong to another cluster now, and its id (empty if such a node named none)."""
        self._map: ShardMap | None = None
        self.cluster = cluster
        """The id of the cluster, empty until it is known."""

    @property
    def map(self) -> ShardMap | None:
        """The newest map taken, or None."""
        return self._map

    @property
    def addresses(self) -> tuple[str, ...]:
        """Every known address: the members of the map, then the seeds."""
        return self._addresses

    def take_map(self, fresh: ShardMap) -> bool:
        """Use ``fresh`` if it is of our cluster and newer."""
        held = self._map
        if not self.is_ours(fresh.cluster_id) or (held is not None and fresh.version <= held.version):
            return False
        urls = {member.name: member.url.rstrip("/") for member in fresh.members if member.url}
        shards = sorted(fresh.shards, key=lambda shard: shard.shard)
        self._primary_urls = tuple(urls.get(shard.primary.name) if shard.primary else None for shard in shards)
        self._epochs = tuple(shard.epoch for shard in shards)
        self._addresses = tuple(dict.fromkeys((*urls.values(), *self._seeds)))
        self._avoided = {url: kept for url, kept in self._avoided.items() if url in self._addresses}
        self.strangers = {url: whose for url, whose in self.strangers.items() if url in self._addresses}
        self._map = fresh
        return True

    def is_ours(self, cluster: str) -> bool:
        """Return whether what names this cluster is ours; the first that names one decides which is."""
        if not self.cluster:
            self.cluster = cluster
        return cluster == self.cluster or not cluster

    def strayed(self, url: str, cluster: str, *, now: float) -> None:
        """A node of another cluster has this address: avoid it."""
        self.strangers[url] = cluster
        self._avoided[url] = _Avoided(now + AVOID_FOREIGN_S, AVOID_FOREIGN_S)

    @property
    def is_lost(self) -> bool:
        """Whether every known address belongs to another cluster. One that belongs to none yet may still become ours."""
        return all(self.strangers.get(url) for url in self._addresses)

    def primary_urls(self) -> tuple[str | None, ...]:
        """Return the address of each shard's primary by the cached map, in the order of the shards."""
        return self._primary_urls

    def primary_url(self, user: str) -> str | None:
        """Return the address of the user's primary by the cached map, or None if it is not known."""
        return self._primary_urls[shard_of(user, len(self._primary_urls))] if self._primary_urls else None

    def is_stale(self, shard: int, epoch: int) -> bool:
        """Return whether an answer from ``epoch`` of ``shard`` shows that the cached map is old."""
        return shard < 0 or shard >= len(self._epochs) or epoch > self._epochs[shard]

    def target(self, wish: str | None, *, now: float, draw: Callable[[], float], last: str | None = None) -> str:
        """Return the address to send to: ``wish`` (a primary's) if it may work. ``last`` just failed."""
        if wish is not None and wish != last and not self._is_avoided(wish, now):
            return wish
        usable = [url for url in self._addresses if url != last and not self._is_avoided(url, now)]
        if usable:
            return usable[min(int(draw() * len(usable)), len(usable) - 1)]
        others = [url for url in self._addresses if url != last] or list(self._addresses)
        return min(others, key=lambda url: self._avoided[url].until if url in self._avoided else 0.0)

    def failed(self, url: str, *, now: float, silent: bool = False) -> None:
        """Avoid an address that refused or broke a connection, longer each time (0.5 s doubled up to 8 s).

        One that was ``silent`` is avoided for at least 5 s.
        """
        self.strangers.pop(url, None)
        before = self._avoided.get(url)
        if before is not None and now < before.until:
            return  # several requests broke at once: that is one failure
        first_s = AVOID_SILENT_S if silent else AVOID_FIRST_S
        span_s = first_s if before is None else min(AVOID_MAX_S, max(first_s, before.span_s * 2))
        self._avoided[url] = _Avoided(now + span_s, span_s)

    def answered(self, url: str) -> None:
        """Forget the failures of an address that answered."""
        self._avoided.pop(url, None)
        self.strangers.pop(url, None)

    def _is_avoided(self, url: str, now: float) -> bool:
        avoided = self._avoided.get(url)
        return avoided is not None and now < avoided.until
