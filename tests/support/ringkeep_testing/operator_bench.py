"""The operator over a fake API server and fake pods, pass by pass: in between time jumps to when the next one is due.

``kill_at`` ends the operator as a kill would: nothing after that point runs, and the next pass is of a new operator.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp

from ringkeep_operator.acting import Actor
from ringkeep_operator.kube import Api, Configuration
from ringkeep_operator.metrics import OperatorMetrics
from ringkeep_operator.nodes import Nodes
from ringkeep_operator.observing import Observer
from ringkeep_operator.plan import plan
from ringkeep_operator.queueing import KeyQueue
from ringkeep_operator.reconciler import Outcome, Reconciler
from ringkeep_operator.state import Decision, Seen
from ringkeep_operator.telling import Teller
from ringkeep_testing.fake_kube import FakeKube, Json
from ringkeep_testing.fake_pods import FakePods

KEY = ("default", "demo")
BEGAN = 1_767_225_600.0
PASSES_MAX = 200


class Killed(BaseException):
    """The operator was killed here."""


class Bench:
    """Use as ``async with Bench() as bench``."""

    def __init__(self, decide: Callable[[Seen], Decision] = plan) -> None:
        self._decide = decide
        self.kube = FakeKube()
        self.pods = FakePods(self.kube)
        self.now = BEGAN
        self.points: list[str] = []
        """Every failpoint that was reached, in order."""
        self.leads = True
        """Whether the Lease is ours."""
        self.kill_at = 0
        """The number of the failpoint, from 1, at which the operator is killed; 0: never."""
        self.kills = 0
        self.passes = 0
        self.outcomes: list[Outcome | None] = []
        self._api: Api | None = None
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        """Start the fakes."""
        await self.kube.__aenter__()
        await self.pods.__aenter__()
        self.pods.make_workers()
        default = {"storageclass.kubernetes.io/is-default-class": "true"}
        self.kube.put("storageclasses", {"metadata": {"name": "standard", "annotations": default}}, "")
        self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End everything."""
        await self.stop()
        await self.pods.__aexit__(kind, error, traceback)
        await self.kube.__aexit__(kind, error, traceback)

    def start(self) -> None:
        """Start an operator that knows nothing yet."""
        where = Configuration()
        where.host = self.kube.url
        self._api = Api(
            where, field_manager="ringkeep-operator", reached=self._reached, request_s=5.0, first_wait_s=0.01
        )
        self._session = aiohttp.ClientSession()
        self._nodes = nodes = Nodes(self._session, address=self.pods.address, reached=self._reached)
        observer = Observer(self._api, nodes, now=self._time, clock=self._time)
        teller = Teller(self._api, component="ringkeep-operator", instance="bench", now=self._time)
        self.reconciler = Reconciler(
            self._api,
            nodes,
            observer,
            Actor(self._api, nodes, teller),
            self._decide,
            KeyQueue(self._time),
            OperatorMetrics(),
            clock=self._time,
            now=self._time,
            may_act=lambda: self.leads,
        )

    async def stop(self) -> None:
        """End the operator."""
        await self.reconciler.stop()
        await self._nodes.close()
        assert self._api is not None and self._session is not None
        await self._session.close()
        await self._api.close()

    def _time(self) -> float:
        return self.now

    def _reached(self, name: str) -> None:
        self.points.append(name)
        if len(self.points) == self.kill_at:
            raise Killed(name)

    # --- what happens

    def create(self, **spec: Any) -> None:
        """Make the resource ``demo``, as ``kubectl apply`` would."""
        self.kube.put("clusters", cluster(**spec))

    def change(self, **spec: Any) -> None:
        """Change the spec, as ``kubectl patch`` would."""
        self.kube.change("clusters", "demo", {"spec": spec})

    async def one_pass(self) -> Outcome | None:
        """Run one pass; start a new operator if it was killed. Time goes on to when the next one is due."""
        self.passes += 1
        try:
            outcome = await self.reconciler.turn(KEY)
        except Killed:
            self.kills += 1
            await self.stop()
            self.start()
            self.now += 5.0
            return None
        self.outcomes.append(outcome)
        self.now += max(0.05, outcome.again_s if outcome is not None else 1.0)
        return outcome

    async def settle(self, enough: Callable[[], bool] | None = None) -> None:
        """Run passes until one changes nothing and ``enough`` holds (default: Ready, as of the present generation)."""
        done = enough or self.is_ready
        for _ in range(PASSES_MAX):
            outcome = await self.one_pass()
            self.pods.settle()
            self.pods.move()
            if outcome is not None and outcome.result == "converged" and done():
                return
        raise AssertionError(f"no end after {PASSES_MAX} passes: {self.kube.get('clusters', 'demo').get('status')}")

    async def ready(self, **spec: Any) -> None:
        """Make the resource and wait until it is Ready."""
        self.create(**spec)
        await self.settle()

    async def settled_after(self, change: Mapping[str, Any]) -> None:
        """Change the spec and wait until it is as wanted: Ready, or suspended."""
        self.change(**change)
        await self.settle(self.is_suspended if change.get("suspend") else None)

    # --- what can be seen

    def condition(self, type_: str) -> Json:
        """Return a condition of the resource, {} if there is none."""
        conditions = (self.kube.get("clusters", "demo").get("status") or {}).get("conditions") or []
        return next((dict(one) for one in conditions if one["type"] == type_), {})

    def is_ready(self) -> bool:
        """Return whether the resource is Ready as of its present generation."""
        generation = self.kube.get("clusters", "demo")["metadata"]["generation"]
        ready = self.condition("Ready")
        return ready.get("status") == "True" and ready.get("observedGeneration") == generation

    def is_suspended(self) -> bool:
        """Return whether no pod is left, as of the present generation."""
        generation = self.kube.get("clusters", "demo")["metadata"]["generation"]
        return not self.kube.names("pods") and self.condition("Progressing").get("observedGeneration") == generation

    def end_state(self) -> Json:
        """Return everything that must be the same however often the operator was killed: no times, ids or versions."""
        status = self.kube.get("clusters", "demo")["status"]
        held = self.pods.map
        assert held is not None
        return {
            "objects": sorted(
                (plural, name)
                for plural, namespace, name in self.kube.objects
                if plural not in ("events", "nodes", "storageclasses") and namespace
            ),
            "ready": [pod for pod in self.kube.names("pods") if _is_ready(self.kube.get("pods", pod))],
            "images": {
                pod: self.kube.get("pods", pod)["spec"]["containers"][0]["image"] for pod in self.kube.names("pods")
            },
            "wanted": {name: (want.weight, want.zone, want.draining) for name, want in held.wanted.members.items()},
            "members": sorted(held.by_name),
            "settings": held.wanted.settings,
            "conditions": {one["type"]: (one["status"], one["reason"]) for one in status["conditions"]},
            "shards": status["shards"],
            "generation": status["observedGeneration"],
        }

    # --- again from here

    def photograph(self) -> Mapping[str, Any]:
        """Return the state of the fakes, for ``restore``."""
        kube, pods = self.kube, self.pods
        return copy.deepcopy(
            {
                "kube": (kube.objects, kube.applied, kube.version),
                "pods": (pods.disks, pods.leader, pods._disk_number, pods.changes),
                "map": pods.map,
                "now": self.now,
            }
        )

    async def restore(self, photograph: Mapping[str, Any]) -> None:
        """Go back to a state, with a new operator."""
        await self.stop()
        state = copy.deepcopy(dict(photograph))
        kube, pods = self.kube, self.pods
        kube.objects, kube.applied, kube.version = state["kube"]
        kube.history, kube.oldest, kube.writes = [], kube.version, []
        pods.disks, pods.leader, pods._disk_number, pods.changes = state["pods"]
        pods.map, self.now = state["map"], state["now"]
        self.points, self.kill_at, self.kills, self.passes, self.outcomes = [], 0, 0, 0, []
        self.start()


def on_a_bench(test: Callable[[Bench], Awaitable[None]]) -> None:
    """Run a test on a bench of its own."""

    async def inside() -> None:
        async with Bench() as bench:
            await test(bench)

    asyncio.run(inside())


def cluster(name: str = "demo", **spec: Any) -> Json:
    """Return a Cluster of few shards."""
    return {"metadata": {"name": name}, "spec": {"replicas": 3, "shards": 16, "image": "node:1", **spec}}


def _is_ready(pod: Json) -> bool:
    return any(one["type"] == "Ready" and one["status"] == "True" for one in pod["status"].get("conditions") or ())
