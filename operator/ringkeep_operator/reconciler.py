"""One pass after another for each cluster: look, decide, act, show; and then again.

    kopf's events, child watches, the nodes' map (long poll), resync, look_again_s --> queue --> pass of one key

Level-based: a pass knows nothing of the one before it, so it may be cut off anywhere and the next one goes on. The only
thing kept is the leader's last refusal, for some seconds, so that the same is not asked again at once.

Source: Kubernetes, "Controllers"; kopf, "Idempotence" and its advice against edge triggering.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from ringkeep_core.errors import RingkeepError
from ringkeep_core.resource import ClusterResource, InvalidSpec, decode_status, status_json
from ringkeep_operator.acting import Actor, described, show_status
from ringkeep_operator.kube import Api, ApiError, Changed
from ringkeep_operator.leadership import Lost
from ringkeep_operator.metrics import OperatorMetrics
from ringkeep_operator.nodes import Answering, NodeError, Nodes, NodeSilent
from ringkeep_operator.observing import Observed, Observer
from ringkeep_operator.plan import decide_invalid
from ringkeep_operator.queueing import Key, KeyQueue
from ringkeep_operator.state import (
    Action,
    Apply,
    Bootstrap,
    Decision,
    Delete,
    Leave,
    Refusal,
    Seen,
    SetWanted,
    Tell,
    TransferLeader,
)
from ringkeep_operator.view import Reason

REFUSAL_KEPT_S = 10.0
REFUSALS_MAX = 4
"""A change of the wanted state has so many parts that can be refused one after the other (``wanted``)."""
ACTED_AGAIN_S = 1.0
"""After a pass that changed something: what it changed may tell nobody."""
BACKOFF_FIRST_S = 0.5
BACKOFF_MAX_S = 10.0
AT_ONCE_S = 0.1
FRESH_S = 3.0
"""Nothing is deleted that the cluster may need on the strength of a look that is older than this."""
NODE_PATIENCE_S = 15.0
"""What members refuse for so long is wrong; before that it may be over in a moment, as that a member still votes."""
POLL_PAUSE_S = 0.3
"""At least so much time between two passes that only the map called for: a plan changes it many times a second."""

EXTRA_KINDS = frozenset({"ServiceMonitor", "PersistentVolumeClaim"})

UNAUTHORIZED = 401

logger = structlog.get_logger()


@dataclass(slots=True)
class _Known:
    """What is kept of a cluster between passes: nothing that a decision depends on."""

    refusal: Refusal | None = None
    refused_at: float = 0.0
    hindered_since: dict[str, float] = field(default_factory=dict)
    failures: int = 0
    follower: asyncio.Task[None] | None = None
    answering: tuple[Answering, ...] = ()
    cluster_id: str = ""
    version: int = 0


@dataclass(frozen=True, slots=True)
class _Work:
    """How far a pass came with its actions: what was ``done``, and what stopped it, if anything did.

    ``is_cut``: what comes next has to be decided from a new look.
    """

    done: tuple[Action, ...]
    refusal: Refusal | None = None
    failed: RingkeepError | None = None
    failures: tuple[str, ...] = ()
    hindrances: tuple[str, ...] = ()
    is_cut: bool = False

    @property
    def is_change(self) -> bool:
        """Whether anything was done but telling."""
        return any(not isinstance(action, Tell) for action in self.done)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a pass came to, and when to look again."""

    result: str
    again_s: float
    failed: RingkeepError | None = field(default=None, compare=False)


class Reconciler:
    """Runs passes. ``decide`` is ``ringkeep_operator.plan.plan``; ``clock`` is the event loop's and the observer's.

    ``may_act`` is asked before everything that changes something: a process that was stopped in the middle of a pass and
    wakes up as nobody's leader must not finish it.
    """

    def __init__(
        self,
        api: Api,
        nodes: Nodes,
        observer: Observer,
        actor: Actor,
        decide: Callable[[Seen], Decision],
        queue: KeyQueue,
        metrics: OperatorMetrics,
        *,
        clock: Callable[[], float],
        now: Callable[[], float],
        may_act: Callable[[], bool] = lambda: True,
    ) -> None:
        self._may_act = may_act
        self._api, self._nodes, self._observer, self._actor, self._decide = api, nodes, observer, actor, decide
        self.queue, self._metrics, self._clock, self._now = queue, metrics, clock, now
        self._known: dict[Key, _Known] = {}
        self._random = random.Random()  # noqa: S311 - spreads retries, protects nothing
        self.turned_at = clock()

    async def work(self, passes: int) -> None:
        """Run passes for ever, so many clusters at a time; cancelled, it leaves nothing running."""
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(passes):
                    group.create_task(self._worker())
        finally:
            await self.stop()

    async def stop(self) -> None:
        """End what runs between passes."""
        await self._stop_following(list(self._known))

    async def _worker(self) -> None:
        while True:
            key = await self.queue.get()
            try:
                await self.turn(key)
            finally:
                self.queue.done(key)

    async def turn(self, key: Key) -> Outcome | None:
        """Run one pass and queue the next one; return what it came to, or None if the cluster is gone."""
        began = self._clock()
        outcome = await self._guarded(key)
        self.turned_at = self._clock()
        if outcome is None:
            await self._stop_following([key])
            self._known.pop(key, None)
            self.queue.forget(key)
            return None
        self._metrics.pass_s.labels(outcome.result).observe(self._clock() - began)
        self.queue.add(key, outcome.again_s)
        self._metrics.queue.set(len(self.queue))
        return outcome

    async def _guarded(self, key: Key) -> Outcome | None:
        """Run a pass; turn what goes wrong into when to try again."""
        known = self._known.setdefault(key, _Known())
        namespace, cluster = key
        try:
            outcome = await self._pass(key, known)
        except Changed as error:
            return self._failed(key, known, error, again_s=AT_ONCE_S)
        except RingkeepError as error:
            return self._failed(key, known, error)
        except Exception as error:
            # A bug of ours, met with one cluster, must not stop the others.
            logger.error("pass_broken", cluster=cluster, namespace=namespace, exc_info=error)
            return self._failed(key, known, RingkeepError("a bug of the operator: see its log"))
        if outcome is not None and outcome.failed is None:
            known.failures = 0
        return outcome

    def _failed(self, key: Key, known: _Known, error: RingkeepError, again_s: float | None = None) -> Outcome:
        known.failures += 1
        if again_s is None or known.failures > 5:
            longest = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(known.failures - 1, 10))
            again_s = longest * (0.5 + self._random.random() / 2)
        log = logger.info if error.retryable else logger.warning
        log("pass_failed", cluster=key[1], namespace=key[0], error=error.detail, error_code=error.code, again_s=again_s)
        return Outcome("failed", again_s, error)

    # --- a pass

    async def _pass(self, key: Key, known: _Known) -> Outcome | None:
        raw = await self._observer.resource(key)
        if raw is None:
            return None
        if known.refusal is not None and self._clock() - known.refused_at >= REFUSAL_KEPT_S:
            known.refusal = None
        try:
            observed = await self._observer.observe(raw, known.refusal)
        except InvalidSpec as error:
            return await self._show_invalid(raw, error)
        decision = self._decide(observed.seen)
        self._follow(key, known, observed)
        work = await self._act(decision.actions, observed, (), known)
        is_refused = work.refusal is not None
        for _ in range(REFUSALS_MAX):
            if work.refusal is None:
                break
            # A refusal changes nothing, so what was seen holds still: it is said at once, and the rest goes on.
            known.refusal, known.refused_at = work.refusal, self._clock()
            observed = replace(observed, seen=replace(observed.seen, refusal=work.refusal))
            decision = self._decide(observed.seen)
            work = await self._act(decision.actions, observed, work.done, known)
        if work.failures or work.hindrances:
            decision = self._decide(replace(observed.seen, failures=work.failures, hindrances=work.hindrances))
        self._check_leading()
        shown = await self._actor.show_status(observed, status_json(decision.status))
        if work.failed is not None:
            again_s = AT_ONCE_S if isinstance(work.failed, Changed) else None
            return self._failed(key, known, work.failed, again_s)
        if work.is_cut:
            return Outcome("acted", AT_ONCE_S)
        if is_refused:
            return Outcome("refused", min(ACTED_AGAIN_S, decision.look_again_s))
        if work.is_change:
            return Outcome("acted", min(ACTED_AGAIN_S, decision.look_again_s))
        return Outcome("acted" if shown else "converged", decision.look_again_s)

    def _check_leading(self) -> None:
        if not self._may_act():
            raise Lost("the Lease ran out in the middle of a pass")

    async def _act(
        self, actions: Sequence[Action], observed: Observed, done: tuple[Action, ...], known: _Known
    ) -> _Work:
        """Carry out in order what is not ``done``, until one is refused or fails; the status is shown all the same.

        An object that the API server does not take as it is, or does not let go, holds up nothing else: pods that died are
        replaced, and members come and go, whatever is wrong with a field. Raises ``Lost`` if we lead no more.
        """
        work, is_refused = _Work(done), False
        for action in actions:
            # What tells of something that was refused would not be true.
            if action in work.done or (is_refused and isinstance(action, Tell)):
                continue
            if is_destructive(action) and self._is_outdated(observed, work.done):
                work = replace(work, is_cut=True)
                break
            self._check_leading()
            try:
                refusal, is_refused = await self._actor.carry_out(action, observed), False
            except RingkeepError as error:
                work, is_refused = await self._failed_at(action, error, observed, work, known), True
                if isinstance(action, Apply | Delete) and not error.retryable:
                    continue
                break
            if refusal is not None:
                return _Work(work.done, refusal=refusal)
            work = replace(work, done=(*work.done, action))
        known.hindered_since = {
            what: since
            for what, since in known.hindered_since.items()
            if any(text.startswith(f"{what}: ") for text in work.hindrances)
        }
        return work

    def _is_outdated(self, observed: Observed, done: Sequence[Action]) -> bool:
        """Whether the members may be in another state than was seen: it was long ago, or they were just asked to change."""
        is_old = self._clock() - observed.at > FRESH_S
        return is_old or any(isinstance(action, SetWanted | Bootstrap | Leave | TransferLeader) for action in done)

    async def _failed_at(
        self, action: Action, error: RingkeepError, observed: Observed, work: _Work, known: _Known
    ) -> _Work:
        """Say as an event what will be refused again and again, and in the conditions what the cluster needs."""
        work = replace(work, failed=work.failed or error)
        what = " ".join(described(action).values())
        text = f"{what}: {error.detail}"
        is_denied = isinstance(error, NodeError) and error.status == UNAUTHORIZED
        if isinstance(error, NodeError | NodeSilent) and not is_denied:
            since = known.hindered_since.setdefault(what, self._clock())
            work = replace(work, hindrances=(*work.hindrances, text))
            if self._clock() - since < NODE_PATIENCE_S:
                return work
        elif error.retryable or not (is_denied or isinstance(error, ApiError)):
            return work
        if not is_extra(action):
            work = replace(work, failures=(*work.failures, text))
        await self._actor.carry_out(Tell(Reason.ACTION_REFUSED, text, "Warning"), observed)
        return work

    async def _show_invalid(self, raw: Mapping[str, Any], error: InvalidSpec) -> Outcome:
        """Say in the conditions what is wrong; nothing else changes."""
        metadata, before = raw["metadata"], decode_status(raw.get("status"))
        about = ClusterResource(
            name=metadata["name"],
            namespace=metadata["namespace"],
            uid=metadata["uid"],
            generation=int(metadata.get("generation", 1)),
            version=metadata.get("resourceVersion", ""),
        )
        decision = decide_invalid(before, about.generation, error.offences, self._now())
        self._check_leading()
        for action in decision.actions:
            if isinstance(action, Tell):
                await self._actor.tell(about, action)
        if await show_status(self._api, raw, status_json(decision.status)):
            logger.warning("spec_invalid", cluster=about.name, namespace=about.namespace, error=str(error))
        return Outcome("invalid", decision.look_again_s)

    # --- the map

    def _follow(self, key: Key, known: _Known, observed: Observed) -> None:
        """Be told at once when the map changes: keep one long poll at whoever answers best."""
        cluster = observed.seen.cluster
        known.answering = tuple(one for one in observed.answering if one.version and not one.node.has_left)
        if cluster is None or not known.answering:
            return
        if known.cluster_id != observed.resource.status.cluster_id:
            known.cluster_id, known.version = observed.resource.status.cluster_id, 0
        known.version = max(known.version, cluster.shard_map.version)
        if known.follower is None or known.follower.done():
            known.follower = asyncio.create_task(self._poll(key, known))

    async def _poll(self, key: Key, known: _Known) -> None:
        failures = 0
        while known.answering:
            one = known.answering[failures % len(known.answering)]
            try:
                version = await self._nodes.wait_newer_than(one.base, known.version, known.cluster_id)
            except NodeSilent:
                # It may be the leader that died: what that means is worth a look.
                failures += 1
                self.queue.add(key, POLL_PAUSE_S)
                await asyncio.sleep(min(POLL_PAUSE_S * failures, 5.0))
                continue
            failures = 0
            if version > known.version:
                known.version = version
                self.queue.add(key)
                await asyncio.sleep(POLL_PAUSE_S)

    async def _stop_following(self, keys: list[Key]) -> None:
        tasks = [known.follower for key in keys if (known := self._known.get(key)) and known.follower is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def is_destructive(action: Action) -> bool:
    """Return whether data or service may depend on what this takes away."""
    return isinstance(action, Delete) and action.target.kind in ("Pod", "PersistentVolumeClaim")


def is_extra(action: Action) -> bool:
    """Return whether the cluster works without this: its kind may not be installed, its size may not be allowed."""
    return isinstance(action, Apply) and action.manifest["kind"] in EXTRA_KINDS
