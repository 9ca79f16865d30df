"""Carries out the http and tcp checks of the instances that this node owns: bounded in number, time and answer.

    instance registered here --> asked at once, then every interval_s --> registry.checked

A check asks what the registration itself names, and its name is resolved here, judged, and that very address is connected
to: a name that points somewhere else by then leads nowhere. Redirects are not followed, proxies are not used, no more than
the beginning of an answer is read, and none of it is shown unless the settings name the address: nobody reads through a
node what they cannot reach. 2xx passes, 429 warns (as with Consul), everything else is critical.
"""

from __future__ import annotations

import asyncio
import heapq
import ipaddress
import math
import socket
from collections.abc import Callable, Coroutine
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import aiohttp
from yarl import URL

from ringkeep_core.errors import BadRequest
from ringkeep_core.services import Check, Instance, Ranges, Status, check_target, clipped_output, ip_or_none
from ringkeep_node.machines.registry import Registry

ANSWER_BYTES_MAX: Final = 256
TOO_MANY: Final = 429
CHECKS_PER_S: Final = 500
"""Checks started a second: a thousand instances with a check every two seconds. What is registered beyond that is asked
later, or whoever may register could keep this node busy, or flood somebody else through it."""
BURST_S: Final = 0.1
"""As many as this time allows are started together, so that the loop is not woken for each."""
STALE_MAX: Final = 1024
Name = tuple[str, str, str]


class Checks:
    """See the module."""

    def __init__(
        self,
        registry: Registry,
        ranges: Ranges,
        given: Callable[[], None],
        *,
        clock: Callable[[], float],
        at_once: int,
    ) -> None:
        self._registry, self._ranges, self._given, self._clock = registry, ranges, given, clock
        self._slots = asyncio.Semaphore(at_once)
        self._own: dict[Name, tuple[Instance, Check]] = {}
        self._due: list[tuple[float, Name]] = []
        self._due_at: dict[Name, float] = {}
        """When each check is due; what else is in the heap is stale."""
        self._paced = -math.inf
        """Until then as many checks were started as may."""
        self._running: dict[Name, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._session: aiohttp.ClientSession | None = None

    def changed(self) -> None:
        """The own checks are others now: begin with new ones, forget those that are gone."""
        before, now = self._own, self._clock()
        self._own = {(it.service, it.id, check.id): (it, check) for it, check in self._registry.own_checks()}
        for name in before:
            if name not in self._own:
                self._due_at.pop(name, None)
        for name, (_, check) in self._own.items():
            known = before.get(name)
            if known is None or known[1].target != check.target or known[1].interval_s != check.interval_s:
                self._schedule(name, now)
        self._arm()

    def _schedule(self, name: Name, at: float) -> None:
        self._due_at[name] = at
        heapq.heappush(self._due, (at, name))
        if len(self._due) > 2 * len(self._due_at) + STALE_MAX:
            self._due = [(at, name) for name, at in self._due_at.items()]
            heapq.heapify(self._due)

    async def close(self) -> None:
        """End everything."""
        if self._timer is not None:
            self._timer.cancel()
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._session is not None:
            await self._session.close()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._due:
            now = self._clock()
            at = self._due[0][0] if self._may_start(now) else max(self._due[0][0], self._paced)
            delay_s = max(0.0, at - now)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._fire)

    def _may_start(self, now: float) -> bool:
        return self._paced + 0.5 / CHECKS_PER_S < now + BURST_S

    def _fire(self) -> None:
        now = self._clock()
        while self._due and self._due[0][0] <= now + 0.001 and self._may_start(now):
            at, name = heapq.heappop(self._due)
            if self._due_at.get(name) != at:
                continue
            del self._due_at[name]
            if name in self._own and name not in self._running:
                self._paced = max(self._paced, now) + 1 / CHECKS_PER_S
                task = asyncio.get_running_loop().create_task(self._carry_out(name))
                self._running[name] = task
                task.add_done_callback(lambda _, name=name: self._ended(name))  # type: ignore[misc]
        self._arm()

    def _ended(self, name: Name) -> None:
        self._running.pop(name, None)
        if name in self._own and name not in self._due_at:
            self._schedule(name, self._clock() + self._own[name][1].interval_s)
            self._arm()

    async def _carry_out(self, name: Name) -> None:
        async with self._slots:
            instance, check = self._own.get(name, (None, None))
            if instance is None or check is None:
                return
            status, output = await self._ask(instance, check)
        self._registry.checked(*name[:2], check, status, output, now=self._clock())
        self._given()

    async def _ask(self, instance: Instance, check: Check) -> tuple[Status, str]:
        ask: Callable[[Check, str, int], Coroutine[Any, Any, tuple[Status, str]]] = (
            self._http if check.kind == "http" else self._tcp
        )
        try:
            async with asyncio.timeout(check.timeout_s):
                own = (instance.address or self._registry.view.me().address, instance.port)
                host, port, is_own = check_target(
                    check.target, is_http=check.kind == "http", own=own, ranges=self._ranges
                )
                return await ask(check, await self._resolved(host, port, is_own), port)
        except TimeoutError:
            return "critical", f"{check.target}: no answer within {check.timeout_s:g} s"
        except BadRequest as error:
            return "critical", error.detail
        except OSError as error:
            return "critical", clipped_output(f"{check.target}: {error}")
        except aiohttp.ClientError as error:
            # Its text would quote the first line of whatever listens there.
            return "critical", clipped_output(f"{check.target}: no answer in HTTP ({type(error).__name__})")

    async def _resolved(self, host: str, port: int, is_own: bool) -> str:
        """Return an address of the host that may be asked. Raises ``BadRequest``, ``OSError``."""
        if ip_or_none(host) is not None:
            return host
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        for _, _, _, _, address in found:
            plain = ip_or_none(str(address[0]).partition("%")[0])
            if plain is not None and self._ranges.may_ask(plain, is_own=is_own):
                return str(plain)
        raise BadRequest(f"{host} has no address that checks may ask")

    async def _tcp(self, check: Check, address: str, port: int) -> tuple[Status, str]:
        _, writer = await asyncio.open_connection(address, port)
        writer.close()
        return "passing", f"{check.target}: connected"

    async def _http(self, check: Check, address: str, port: int) -> tuple[Status, str]:
        if self._session is None:
            # limit: ``at_once`` bounds them already; no cookies, or one target would speak to the next.
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
                headers={"User-Agent": "ringkeep-check", "Accept": "*/*"},
            )
        parts = urlsplit(check.target)
        place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        url = URL(urlunsplit(("http", place, parts.path or "/", parts.query, "")), encoded=True)
        async with self._session.get(url, allow_redirects=False, headers={"Host": parts.netloc}) as answer:
            text = f"GET {check.target}: {answer.status}"
            if self._ranges.may_quote(ipaddress.ip_address(address)):
                body = await answer.content.read(ANSWER_BYTES_MAX)
                text = f"{text} {body.decode('utf-8', 'replace')}".strip()
            status: Status = "critical"
            if 200 <= answer.status < 300:
                status = "passing"
            elif answer.status == TOO_MANY:
                status = "warning"
            return status, clipped_output(text)
