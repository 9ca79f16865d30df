"""A recording client for end-to-end tests. It runs in a pod with the node's image, so it needs nothing but aiohttp.

    so many writes and reads a second, whatever the answers --> one JSON line a second
                                                  --/tmp/stop--> nothing --/tmp/verify--> verify --> last line

A key is written by one task at a time with growing numbers, so what may be read is known: the last acknowledged number, or
one that was sent later and whose fate is unknown. Anything lower is a lost write, at the end as well as while it runs.
A request that fails is sent once more, on another connection; what fails then is an error.

Environment: URL, WRITES_PER_S, READS_PER_S, USERS, TIMEOUT_S, SECONDS_MAX.
"""

from __future__ import annotations

import asyncio
import json
import os
import pathlib
import random
import sys
import time
from collections import Counter
from typing import Any

import aiohttp

STOP, VERIFY = pathlib.Path("/tmp/stop"), pathlib.Path("/tmp/verify")
KEYS_OF_A_USER = 20
IN_FLIGHT_MAX = 2_000
RETRY_AFTER_S = 0.1
VERIFY_TRIES = 20


def quantile(values: list[float], share: float) -> float:
    """Return a quantile of unsorted values, 0 if there are none."""
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 4) if ordered else 0.0


class Recorder:
    """What was sent, acknowledged and found."""

    def __init__(self, url: str, users: int, timeout_s: float) -> None:
        self.url, self.timeout_s = url, timeout_s
        self.keys = [(f"user-{user}", f"k{key}") for user in range(users) for key in range(KEYS_OF_A_USER)]
        self.free = list(self.keys)
        self.acknowledged: dict[tuple[str, str], int] = {}
        self.uncertain: dict[tuple[str, str], set[int]] = {}
        self.number = 0
        self.counts: Counter[str] = Counter()
        self.second: Counter[str] = Counter()
        self.latencies: dict[str, list[float]] = {"write": [], "read": []}
        self.longest: dict[str, tuple[float, float]] = {"write": (0.0, 0.0), "read": (0.0, 0.0)}
        self.wrong: list[str] = []
        self.errors: Counter[str] = Counter()
        self.acknowledged_at = 0.0
        self.gaps: list[tuple[float, float]] = []
        self.random = random.Random(1)

    async def request(
        self, session: aiohttp.ClientSession, kind: str, method: str, key: tuple[str, str], body: bytes
    ) -> bytes | None:
        """Send a request, a second time if the first fails; None if both did. 404 is an empty answer."""
        began, problem = time.time(), ""
        for attempt in (1, 2):
            try:
                address = f"{self.url}/v1/users/{key[0]}/docs/{key[1]}"
                async with session.request(method, address, data=body or None) as answer:
                    said = await answer.read()
                    if answer.status in (200, 201, 404):
                        self.done(kind, began, time.time())
                        return b"" if answer.status == 404 else said
                    problem = f"{answer.status} {json.loads(said).get('code', '')}"
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                problem = type(error).__name__
            self.errors[f"{kind} {attempt}: {problem}"] += 1
            if attempt == 1:
                self.second["retries"] += 1
                await asyncio.sleep(RETRY_AFTER_S)
        self.second[f"{kind}_errors"] += 1
        return None

    def done(self, kind: str, began: float, now: float) -> None:
        """Count an answered request."""
        self.second[f"{kind}s"] += 1
        self.latencies[kind].append(now - began)
        self.longest[kind] = max(self.longest[kind], (now - began, began))
        if kind == "write":
            if self.acknowledged_at and now - self.acknowledged_at > 0.5:
                self.gaps.append((round(self.acknowledged_at, 3), round(now - self.acknowledged_at, 3)))
            self.acknowledged_at = now

    async def write(self, session: aiohttp.ClientSession) -> None:
        """Write the next number to a key that nobody writes now."""
        place = self.random.randrange(len(self.free))
        self.free[place], self.free[-1] = self.free[-1], self.free[place]
        key = self.free.pop()
        self.number += 1
        number = self.number
        self.uncertain.setdefault(key, set()).add(number)
        answer = await self.request(session, "write", "PUT", key, str(number).encode())
        if answer is not None:
            self.acknowledged[key] = number
            # What was sent before this one cannot take effect any more: its requests have ended or are refused as older.
            self.uncertain[key] = {one for one in self.uncertain[key] if one > number}
        self.free.append(key)

    async def read(self, session: aiohttp.ClientSession) -> None:
        """Read a key and compare it with what had been acknowledged before."""
        key = self.random.choice(self.keys)
        before = self.acknowledged.get(key, 0)
        answer = await self.request(session, "read", "GET", key, b"")
        if answer is not None and int(answer or b"0") < before:
            self.wrong.append(f"read of {key} at {time.time():.3f}: {answer!r}, but {before} was acknowledged before")

    async def run(
        self, session: aiohttp.ClientSession, writes_per_s: float, reads_per_s: float, seconds_max: float
    ) -> None:
        """Keep the rates until told to stop: how fast answers come does not slow the requests down."""
        tasks: set[asyncio.Task[None]] = set()
        began = time.monotonic()
        sent, told_at = {"write": 0, "read": 0}, began
        while not STOP.exists() and time.monotonic() < began + seconds_max:
            now = time.monotonic()
            for kind, rate, start in (("write", writes_per_s, self.write), ("read", reads_per_s, self.read)):
                while sent[kind] < (now - began) * rate:
                    sent[kind] += 1
                    if len(tasks) >= IN_FLIGHT_MAX or (kind == "write" and not self.free):
                        self.second["not_sent"] += 1
                        continue
                    task = asyncio.create_task(start(session))
                    tasks.add(task)
                    task.add_done_callback(tasks.discard)
            if now >= told_at + 1.0:
                told_at = now
                self.tell(len(tasks))
            await asyncio.sleep(0.005)
        await asyncio.gather(*tasks)
        self.tell(0)

    def tell(self, in_flight: int) -> None:
        """Print the line of a second."""
        line: dict[str, Any] = {"at": round(time.time(), 3), "in_flight": in_flight, **self.second}
        for kind, values in self.latencies.items():
            line |= {f"{kind}_p50_s": quantile(values, 0.5), f"{kind}_p99_s": quantile(values, 0.99)}
            line[f"{kind}_max_s"] = round(max(values, default=0.0), 4)
            values.clear()
        self.counts.update(self.second)
        self.second.clear()
        print(json.dumps(line), flush=True)

    async def verify(self, session: aiohttp.ClientSession) -> list[str]:
        """Read every key that was written and return what is lost."""
        lost: list[str] = []
        for key, number in self.acknowledged.items():
            answer: bytes | None = None
            for _ in range(VERIFY_TRIES):
                answer = await self.request(session, "check", "GET", key, b"")
                if answer is not None:
                    break
                await asyncio.sleep(0.5)
            found = int(answer or b"0") if answer is not None else -1
            if found != number and found not in self.uncertain.get(key, set()):
                lost.append(f"{key}: {found} was found, {number} was acknowledged")
        return lost


async def main() -> int:
    """Record, verify, and print the sum."""
    environment = os.environ
    recorder = Recorder(environment["URL"], int(environment["USERS"]), float(environment["TIMEOUT_S"]))
    recorder.latencies["check"] = []
    recorder.longest["check"] = (0.0, 0.0)
    timeout = aiohttp.ClientTimeout(total=recorder.timeout_s, connect=2.0)
    connector = aiohttp.TCPConnector(limit=0, keepalive_timeout=10)
    async with aiohttp.ClientSession(timeout=timeout, connector=connector) as session:
        rates = float(environment["WRITES_PER_S"]), float(environment["READS_PER_S"])
        await recorder.run(session, *rates, float(environment["SECONDS_MAX"]))
        while not VERIFY.exists():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0.1)
        lost = await recorder.verify(session)
    counts = recorder.counts
    print(
        json.dumps(
            {
                "final": True,
                "writes": counts["writes"],
                "reads": counts["reads"],
                "write_errors": counts["write_errors"],
                "read_errors": counts["read_errors"],
                "retries": counts["retries"],
                "not_sent": counts["not_sent"],
                "checked": len(recorder.acknowledged),
                "lost": lost[:50],
                "wrong": recorder.wrong[:50],
                "errors": dict(recorder.errors),
                "longest_write_s": round(recorder.longest["write"][0], 3),
                "longest_write_at": round(recorder.longest["write"][1], 3),
                "longest_read_s": round(recorder.longest["read"][0], 3),
                "gaps": recorder.gaps[:50],
            }
        ),
        flush=True,
    )
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
