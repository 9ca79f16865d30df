"""Checks that are carried out: what passes, what does not, and what is never asked."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Callable

import pytest

from ringkeep_core.services import CheckWish, Ranges, Registration, check_registration
from ringkeep_node.machines.registry import COMPARED_WITHIN_S, Registry, RegistrySettings
from ringkeep_node.runtime.checks import BURST_S, CHECKS_PER_S, Checks
from ringkeep_node.runtime.services import LOOPBACK, Services, ServicesSettings
from ringkeep_testing.registry_group import fact_of

Seen = tuple[str, str]


class Target:
    """Something on loopback that answers every request with one status line, and counts them."""

    def __init__(self, status: str = "200 OK", *, answers: bool = True) -> None:
        self.status, self.answers = status, answers
        self.requests: list[bytes] = []

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request, or keep it waiting until the client gives up."""
        try:
            self.requests.append(await reader.readuntil(b"\r\n\r\n"))
            if self.answers:
                moved = b"Location: /elsewhere\r\n" if self.status.startswith("3") else b""
                writer.write(b"HTTP/1.1 " + self.status.encode() + b"\r\n" + moved + b"Content-Length: 2\r\n\r\nhi")
                await writer.drain()
            else:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        writer.close()


def checked(target: Target, wish: Callable[[int], CheckWish], *, address: str = "127.0.0.1", ranges: Ranges) -> Seen:
    """Register an instance with a check of a target; return (status, output) when it was carried out once."""

    async def whole() -> Seen:
        loop = asyncio.get_running_loop()
        server = await asyncio.start_server(target, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        registry = Registry(fact_of("n1"), RegistrySettings(), now=loop.time() - COMPARED_WITHIN_S)
        done = asyncio.Event()
        services = Services(ServicesSettings(), ranges, clock=loop.time)

        def given() -> None:
            step = registry.take()
            if step is not None:
                services.stepped(step.changed, step.checks_changed)
            seen = registry.view.get("web", "w")
            if seen is not None and seen.instance.checks[0].output:
                done.set()

        services.run(registry, given)
        services.register("web", "w", Registration(address=address, port=port, checks=(wish(port),)), client="c")
        await done.wait()
        seen = registry.view.get("web", "w")
        assert seen is not None
        await services.close()
        server.close()
        check = seen.instance.checks[0]
        return check.status, check.output.replace(str(port), "PORT")

    return asyncio.run(asyncio.wait_for(whole(), 20.0))


HERE = Ranges(targets=LOOPBACK)


def http(port: int) -> CheckWish:
    """Return an http check of the target."""
    return CheckWish(http=f"http://127.0.0.1:{port}/health?a=b", interval_s=10.0)


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        ("200 OK", "passing"),
        ("299 Fine", "passing"),
        ("429 Too Many Requests", "warning"),
        ("404 Not Found", "critical"),
        ("503 Service Unavailable", "critical"),
    ],
)
def test_the_status_of_an_answer_decides(status: str, expected: str) -> None:
    target = Target(status)
    seen = checked(target, http, ranges=HERE)

    assert seen[0] == expected
    assert seen[1].startswith(f"GET http://127.0.0.1:PORT/health?a=b: {status[:3]}")
    assert target.requests[0].startswith(b"GET /health?a=b HTTP/1.1\r\n")


def test_what_was_answered_is_shown_only_where_the_settings_name_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    named = checked(Target(), http, ranges=HERE)
    # Loopback is never asked unless it is named, and nothing else can be reached in a test.
    monkeypatch.setattr(Ranges, "may_ask", lambda *_, **__: True)
    unnamed = checked(Target(), http, ranges=Ranges())

    assert named == ("passing", "GET http://127.0.0.1:PORT/health?a=b: 200 hi")
    assert unnamed == ("passing", "GET http://127.0.0.1:PORT/health?a=b: 200")


def test_what_speaks_no_http_is_critical_and_is_not_quoted() -> None:
    class Banner(Target):
        async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"SSH-2.0-secret\r\n")
            await writer.drain()
            writer.close()

    seen = checked(Banner(), http, ranges=HERE)

    assert seen == ("critical", "http://127.0.0.1:PORT/health?a=b: no answer in HTTP (ClientResponseError)")


def test_a_redirect_is_critical_and_is_not_followed() -> None:
    target = Target("302 Found")
    seen = checked(target, http, ranges=HERE)

    assert seen[0] == "critical"
    assert len(target.requests) == 1


def test_a_port_that_takes_connections_passes_a_tcp_check_and_a_closed_one_does_not() -> None:
    open_ = checked(Target(), lambda port: CheckWish(tcp=f"127.0.0.1:{port}"), ranges=HERE)
    closed = checked(Target(), lambda port: CheckWish(tcp="127.0.0.1:1"), ranges=HERE)

    assert open_ == ("passing", "127.0.0.1:PORT: connected")
    assert closed[0] == "critical"


def test_no_answer_in_time_is_critical() -> None:
    def impatient(port: int) -> CheckWish:
        return CheckWish(http=f"http://127.0.0.1:{port}/", interval_s=10.0, timeout_s=0.1)

    seen = checked(Target(answers=False), impatient, ranges=HERE)

    assert seen == ("critical", "http://127.0.0.1:PORT/: no answer within 0.1 s")


def test_a_name_that_resolves_to_this_machine_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolved(self: object, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolved)
    target = Target()
    seen = checked(
        target,
        lambda port: CheckWish(http=f"http://web.example:{port}/"),
        address="web.example",
        ranges=Ranges(targets=(ipaddress.ip_network("10.9.0.0/16"),)),
    )

    assert seen == ("critical", "web.example has no address that checks may ask")
    assert target.requests == []


def test_a_name_that_resolves_to_what_may_be_asked_is_asked_there(monkeypatch: pytest.MonkeyPatch) -> None:
    async def resolved(self: object, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", ("127.0.0.1", port))]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolved)
    target = Target()
    wish: Callable[[int], CheckWish] = lambda port: CheckWish(http=f"http://web.example:{port}/")  # noqa: E731
    seen = checked(target, wish, address="web.example", ranges=HERE)

    assert seen[0] == "passing"
    assert b"\r\nHost: web.example:" in target.requests[0]


def test_many_checks_are_started_a_few_at_a_time_and_each_gets_its_turn() -> None:
    async def whole() -> list[int]:
        now, asked = [0.0], list[str]()
        registry = Registry(fact_of("n1"), RegistrySettings(), now=-COMPARED_WITHIN_S)

        class Counting(Checks):
            async def _carry_out(self, name: tuple[str, str, str]) -> None:
                asked.append(name[1])

        checks = Counting(registry, HERE, lambda: None, clock=lambda: now[0], at_once=1)
        wish = CheckWish(tcp="127.0.0.1:1", interval_s=3600.0)
        for number in range(120):
            wanted = Registration(address="127.0.0.1", port=1, checks=(wish,))
            registry.register(
                check_registration("web", f"{number}", wanted, node_address="127.0.0.1", ranges=HERE), now=0.0
            )
        checks.changed()
        checks.changed()
        started = []
        for turn in range(5):
            now[0] = turn * BURST_S
            checks._fire()
            await asyncio.gather(*checks._running.values())
            started.append(len(set(asked)))
        await checks.close()
        assert len(asked) == 120
        return started

    at_once = round(BURST_S * CHECKS_PER_S)
    assert asyncio.run(whole()) == [at_once, 2 * at_once, 120, 120, 120]
