"""Events about a Cluster: said once, and not too many."""

from __future__ import annotations

import asyncio
from typing import Any

from ringkeep_core.resource import ClusterResource
from ringkeep_operator.kube import Invalid, Json
from ringkeep_operator.state import Tell
from ringkeep_operator.telling import BURST, EVERY_S, REPEAT_S, Teller

DEMO = ClusterResource(name="demo", namespace="default", uid="u1", version="5")


class Events:
    """Takes events."""

    def __init__(self) -> None:
        self.posted: list[Json] = []
        self.refuses = False

    async def create(self, manifest: Json, _namespace: str) -> Json:
        """Keep an event."""
        if self.refuses:
            raise Invalid("no")
        self.posted.append(manifest)
        return manifest


def told(*steps: tuple[float, Tell], refuses: bool = False) -> list[Json]:
    """Return the events that come of telling these at these times."""
    events, now = Events(), [0.0]
    events.refuses = refuses
    api: Any = events
    teller = Teller(api, component="ringkeep-operator", instance="i", now=lambda: now[0])

    async def run() -> None:
        for at, what in steps:
            now[0] = at
            await teller.tell(DEMO, what)

    asyncio.run(run())
    return events.posted


def test_an_event_says_what_why_and_about_what() -> None:
    (event,) = told((1_767_225_600.0, Tell("ChangeRefused", "too few nodes", "Warning")))

    assert (event["reason"], event["message"], event["type"]) == ("ChangeRefused", "too few nodes", "Warning")
    assert event["involvedObject"] == {
        "apiVersion": "ringkeep.dev/v1alpha1",
        "kind": "Cluster",
        "name": "demo",
        "namespace": "default",
        "uid": "u1",
        "resourceVersion": "5",
    }
    assert event["lastTimestamp"] == "2026-01-01T00:00:00Z" and event["metadata"]["name"].startswith("demo.")


def test_the_same_is_said_again_only_after_a_while() -> None:
    same = Tell("Scaled", "3 to 5")

    assert len(told((0.0, same), (1.0, same), (REPEAT_S - 1, same), (REPEAT_S + 1, same))) == 2


def test_a_storm_of_events_is_cut_off_and_let_through_again_slowly() -> None:
    storm = [(0.0, Tell("Storm", f"number {n}")) for n in range(BURST * 3)]
    later = [(EVERY_S * 2, Tell("Later", f"number {n}")) for n in range(5)]

    assert [event["reason"] for event in told(*storm, *later)] == ["Storm"] * BURST + ["Later"] * 2


def test_an_event_that_cannot_be_posted_stops_nothing() -> None:
    assert told((0.0, Tell("Scaled", "3 to 5")), refuses=True) == []
