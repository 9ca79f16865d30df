"""The web console: its files, its stream of news, what it asks of others, and that it can change nothing."""

from __future__ import annotations

import asyncio
import base64
import gzip
import re
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import msgspec
import pytest

from ringkeep_core.placement import NodeState
from ringkeep_core.plans import NodeFacts
from ringkeep_core.summary import sentence
from ringkeep_node.http.console.assets import FOLDER, assets
from ringkeep_node.http.console.feed import EVENTS_SHOWN, KEPT_MAX
from ringkeep_node.http.console.figures import SLOTS, Counted, Figures
from ringkeep_node.http.console.headline import headline
from ringkeep_node.http.console.pictures import Picture, Rows, counts_of, difference
from ringkeep_node.http.console.rates import Meter, percentile_ms
from ringkeep_node.http.server import ServerSettings
from ringkeep_node.runtime.reports import RunningPlan
from ringkeep_testing.console_world import ConsoleDriver, with_primary, without
from ringkeep_testing.console_world import map_of as map_of_nodes
from ringkeep_testing.fake_driver import FakeDriver, FakeIdentity
from ringkeep_testing.http_edge import EdgeUnderTest, Wire, request, serve, until
from ringkeep_testing.summaries import dead, look, map_of, turned

WIRE_BYTES_MAX = 150 * 1024
EVENTS = "/v1/console/events"
SCRIPTS = {path.name: path.read_text() for path in sorted(FOLDER.glob("*.js"))}
PAGE = (FOLDER / "index.html").read_text()
STYLE = (FOLDER / "console.css").read_text()


# --- files -------------------------------------------------------------------------------------------------------


def test_the_page_may_load_nothing_but_its_own_files_and_run_nothing_inline() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        page = await edge.ask("GET", "/")

        assert page.status == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["content-security-policy"] == assets().policy
        inline = re.findall(r"<(style|script)>(.*?)</(?:style|script)>", page.body.decode(), re.S)
        assert inline == [("style", STYLE), ("script", SCRIPTS["theme.js"])]
        assert page.headers["cache-control"] == "no-cache"

    serve(test)
    sources = dict(part.strip().split(" ", 1) for part in assets().policy.split(";"))
    hashes = [base64.b64encode(sha256(text.encode()).digest()).decode() for text in (SCRIPTS["theme.js"], STYLE)]
    assert sources == {
        "default-src": "'none'",
        "script-src": f"'self' 'sha256-{hashes[0]}'",
        "style-src": f"'sha256-{hashes[1]}'",
        "img-src": "'self'",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
    }
    assert re.findall(r"<script(?![^>]*\ssrc=)|<style|\sstyle=|\son\w+=|javascript:", PAGE) == []
    assert re.findall(r"https?://(?!www\.w3\.org/2000/svg)\S+", PAGE + STYLE) == []
    assert re.findall(r"@import|url\(", STYLE) == []


def test_every_file_that_the_page_names_is_there_and_may_be_kept_for_ever() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        page = (await edge.ask("GET", "/")).body.decode()
        named = re.findall(r'(?:href|src)="(/console/[^"]+)"', page)
        answers = {path: await edge.ask("GET", path) for path in named}

        assert {path.rpartition("/")[2] for path in named} == {path.name for path in FOLDER.iterdir()} - {
            "index.html",
            "console.css",
            "theme.js",
        }
        assert {(answer.status, answer.headers["cache-control"]) for answer in answers.values()} == {
            (200, "public, max-age=31536000, immutable")
        }
        assert {answer.headers["content-type"].partition(";")[0] for answer in answers.values()} == {
            "text/javascript",
            "image/svg+xml",
        }

    serve(test)


def test_modules_import_only_each_other_and_the_page_names_all_of_them() -> None:
    imported = {name for text in SCRIPTS.values() for name in re.findall(r'from "\./([a-z]+\.js)"', text)}
    imports = sum(len(re.findall(r"^import ", text, re.M)) for text in SCRIPTS.values())

    assert imports == sum(
        len(re.findall(r'^import .* from "\./[a-z]+\.js";$', text, re.M)) for text in SCRIPTS.values()
    )
    assert imported | {"main.js", "theme.js"} == set(SCRIPTS)


def test_a_page_of_another_version_gets_what_there_is_and_keeps_it_not() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        other = await edge.ask("GET", "/console/0123456789abcdef/main.js")
        absent = [await edge.ask("GET", f"/console/{assets().digest}/{name}") for name in ("none.js", "index.html", "")]

        assert (other.status, other.headers["cache-control"]) == (200, "no-store")
        assert [answer.code for answer in absent] == ["not_found"] * 3

    serve(test)


def test_files_are_compressed_for_whoever_takes_that_and_not_sent_twice() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        plain = await edge.ask("GET", "/")
        packed = await edge.ask("GET", "/", Accept_Encoding="br, gzip;q=0.8")
        refused = await edge.ask("GET", "/", Accept_Encoding="gzip;q=0")
        same = await edge.ask("GET", "/", Accept_Encoding="gzip", If_None_Match=f'"x", W/{packed.headers["etag"]}')
        other = await edge.ask("GET", "/", If_None_Match=packed.headers["etag"])

        assert gzip.decompress(packed.body) == plain.body == refused.body
        assert packed.headers["content-encoding"] == "gzip" and "content-encoding" not in plain.headers
        assert packed.headers["vary"] == "Accept-Encoding" and packed.headers["etag"] != plain.headers["etag"]
        assert (same.status, same.body, other.status) == (304, b"", 200)

    serve(test)


def test_the_whole_console_of_20_nodes_and_256_shards_takes_at_most_150_kib() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        for number in range(500):
            edge.driver.happens(f"3 of 3 shard changes: scale {number}", detail="copy added n2: " + "1, 2, 3, " * 100)  # type: ignore[attr-defined]
        _, full = await opened(edge)
        files = sum(len(file.packed) for file in assets().files.values())

        assert len(full["data"]) < 80 * 1024
        assert files + len(full["data"]) + 16 * 400 < WIRE_BYTES_MAX
        assert len(msgspec.json.decode(full["data"])["events"]) == EVENTS_SHOWN

    serve(test, EdgeUnderTest(ConsoleDriver(20, 256)))


# --- the page can change nothing ---------------------------------------------------------------------------------


def test_the_page_can_only_read() -> None:
    whole = "\n".join(SCRIPTS.values())

    assert re.findall(r"fetch\([^)]*?method: \"(\w+)\"", whole, re.S) == ["GET"] and whole.count("fetch(") == 1
    assert whole.count("new EventSource(") == 1
    forbidden = r"XMLHttpRequest|sendBeacon|WebSocket|WebTransport|SharedWorker|serviceWorker|POST|PUT|DELETE|PATCH"
    assert re.findall(forbidden, whole) == []
    assert re.findall(r"<form[^>]*\s(?:action|method)=", PAGE) == []
    # Whatever it asks for begins with one of these.
    assert set(re.findall(r"[`\"'](/(?:v1|metrics|openapi)[^`\"'?$]*)", whole)) == {
        EVENTS,
        "/metrics",
        "/openapi.json",
        "/v1/cluster",
        "/v1/cluster/events",
        "/v1/cluster/map",
        "/v1/cluster/members",
        "/v1/cluster/plan",
        "/v1/users/",
    }


def test_the_page_puts_text_in_as_text_only() -> None:
    markup = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|createContextualFragment|DOMParser|setHTML|srcdoc"
    code = r"\beval\b|new Function|setTimeout\(\s*[\"'`]|setInterval\(\s*[\"'`]|import\("

    assert {name: re.findall(f"{markup}|{code}", text) for name, text in SCRIPTS.items()} == {
        name: [] for name in SCRIPTS
    }


# --- the stream --------------------------------------------------------------------------------------------------


async def opened(edge: EdgeUnderTest, *, last: str | None = None) -> tuple[Wire, dict[str, str]]:
    """Open a stream, after the event ``last`` if there was one; return its connection and its first event."""
    wire = await edge.connect()
    await wire.send(request("GET", EVENTS, b"", **({} if last is None else {"Last_Event_ID": last})))
    head = await wire.stream()
    assert (head.status, head.headers["content-type"], head.headers["connection"]) == (
        200,
        "text/event-stream",
        "close",
    )
    assert await wire.event() == {"retry": "2000"}
    return wire, await wire.event()


def told(event: Mapping[str, str]) -> dict[str, Any]:
    """Return what an event tells, but for the time."""
    data: dict[str, Any] = msgspec.json.decode(event["data"])
    return {name: value for name, value in data.items() if name != "at"}


def test_a_stream_begins_with_everything_and_goes_on_with_what_changed() -> None:
    driver = ConsoleDriver()

    async def test(edge: EdgeUnderTest) -> None:
        wire, full = await opened(edge)
        held = driver.shard_map
        assert held is not None
        other = next(copy.storage for copy in held.shards[3].in_sync if copy.storage != held.shards[3].primary.storage)
        driver.replace_map(with_primary(held, 3, other))
        driver.happens("1 of 1 shard changes (1 moveprimary): drain n1", reason="drain n1", primaries_moved=1)
        edge.api.feed.look()
        news = await wire.event()

        assert full["event"] == "full" and set(told(full)) == {*Picture.__struct_fields__, "events"}
        assert len(told(full)["shards"]) == 16 and set(told(full)["members"]) == {"n1", "n2", "n3"}
        changed = told(news)
        names = {storage: member.name for storage, member in held.members.items()}
        in_sync = [names[copy.storage] for copy in held.shards[3].in_sync]
        assert news["event"] == "news" and set(changed) == {"cluster", "members", "shards", "events"}
        assert changed["shards"] == {"3": [2, 2, names[other], in_sync, [], 2, "ok"]}
        assert set(changed["members"]) == {names[other], names[held.shards[3].primary.storage]}
        assert [event[3:] for event in changed["events"]] == [
            ["1 of 1 shard changes (1 moveprimary): drain n1", "drain n1", "", {"primaries_moved": 1}]
        ]

    serve(test, EdgeUnderTest(driver))


def test_a_stream_that_broke_off_goes_on_where_it_was() -> None:
    driver = ConsoleDriver()

    async def test(edge: EdgeUnderTest) -> None:
        wire, full = await opened(edge)
        wire.hang_up()
        for state in ("suspect", "dead"):
            driver.states["n2"] = state
            edge.api.feed.look()
        _, next_event = await opened(edge, last=full["id"])
        _, late = await opened(edge, last=next_event["id"])
        strange = [(await opened(edge, last=known))[1]["event"] for known in ("", "other.1", full["id"] + "9", "x")]

        assert next_event["event"] == "news" and told(next_event)["members"]["n2"]["state"] == "suspect"
        assert late["event"] == "news" and told(late)["members"]["n2"]["state"] == "dead"
        assert strange == ["full"] * 4

    serve(test, EdgeUnderTest(driver))


def test_whoever_is_too_far_behind_gets_everything_and_little_is_kept_for_others() -> None:
    driver = ConsoleDriver()

    async def test(edge: EdgeUnderTest) -> None:
        wire, full = await opened(edge)
        wire.hang_up()
        for number in range(KEPT_MAX + 1):
            driver.states["n2"] = ("suspect", "alive")[number % 2]
            edge.api.feed.look()
        _, after = await opened(edge, last=full["id"])

        assert after["event"] == "full"
        assert len(edge.api.feed._kept) == KEPT_MAX

    serve(test, EdgeUnderTest(driver))


def test_streams_are_bounded_and_a_place_is_free_again_when_one_ends() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        feed = edge.api.feed
        first, _ = await opened(edge)
        await opened(edge)
        refused = await edge.ask("GET", EVENTS)
        first.hang_up()
        edge.driver.not_ready = "x"
        await until(lambda: _news(edge) and feed.streams == 1)
        await opened(edge)

        assert (refused.status, refused.code, refused.headers["retry-after"]) == (429, "too_many_requests", "1")
        assert feed.streams == 2

    driver = ConsoleDriver()
    serve(test, EdgeUnderTest(driver, server=ServerSettings(console_streams_max=2, shutdown_s=0.5)))


def _news(edge: EdgeUnderTest) -> bool:
    """Make something new, so that a stream writes and sees that nobody reads it."""
    assert isinstance(edge.driver, ConsoleDriver)
    edge.driver.states["n3"] = "suspect" if edge.driver.states.get("n3") == "alive" else "alive"
    edge.api.feed.look()
    return True


def test_a_node_that_stops_ends_its_streams_at_once_and_opens_no_more() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        wire, _ = await opened(edge)
        edge.edge.stopping = True
        refused = await edge.ask("GET", EVENTS)
        stopping = asyncio.create_task(edge.server.stop())
        last = await wire.event()
        closed = await wire.is_closed()
        await stopping

        assert refused.code == "not_ready"
        assert last == {"event": "bye", "data": "{}"} and closed

    serve(test, EdgeUnderTest(ConsoleDriver(), server=ServerSettings(shutdown_s=60.0)))


def test_a_node_in_no_cluster_says_so() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        _, full = await opened(edge)
        shown = told(full)

        assert shown["summary"]["level"] == "broken" and "no cluster" in shown["summary"]["text"]
        assert (shown["shards"], shown["cluster"]["leader"], list(shown["members"])) == ([], None, ["n1"])

    serve(test, EdgeUnderTest(FakeDriver(founded=False)))


def test_the_console_says_what_the_summary_says_and_names_what_is_found_without_its_age() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        driver = edge.driver
        driver.look_set = look(map_of(shards=turned("n1", "n2", "n3", gone="n2")), dead("n2", for_s=42.0))
        summary = (await edge.ask("GET", "/v1/cluster/summary")).json
        _, full = await opened(edge)
        driver.look_set = look(map_of(shards=turned("n1", "n2", "n3", gone="n2")), dead("n2", for_s=60.0))
        feed = edge.api.feed
        feed._said_at = float("-inf")
        feed.look()
        said, later = told(full)["summary"], dict(feed._shown.summary)
        first = summary["findings"][0]

        assert said["text"] == summary["headline"] != later["text"]
        assert (said["level"], said["command"]) == ("degraded", first["command"])
        assert said["doing"] == sentence(first["doing"]) and said["advice"] == sentence(first["advice"])
        assert [more["what"] for more in said["more"]] == [sentence(one["what"]) for one in summary["findings"][1:]]
        assert said["key"] == later["key"] == " ".join(f"{one['kind']}:{one['subject']}" for one in summary["findings"])

    serve(test)


def test_the_plan_that_only_the_leader_knows_is_part_of_what_is_said() -> None:
    plan = RunningPlan(reason="scale: n4 joins", since=9_990.0, copies=12, copies_done=4, primaries=3)

    assert "4 of 12" in str(headline(look(), plan)) and headline(look(), plan)["level"] == "working"
    assert headline(look(), None)["level"] == "ok" and headline(look(), None)["key"] == ""


def test_a_node_does_nothing_for_the_console_while_nobody_looks() -> None:
    driver = ConsoleDriver()

    async def test(edge: EdgeUnderTest) -> None:
        feed = edge.api.feed
        feed.look_s = 0.0
        before = driver.looked
        wire, _ = await opened(edge)
        running = feed._task
        wire.hang_up()
        await until(lambda: _news(edge) and feed._task is None)
        looked = driver.looked
        for _ in range(100):
            await asyncio.sleep(0)

        assert before == 0 and running is not None
        assert (driver.looked, feed.streams, feed._task) == (looked, 0, None)

    serve(test, EdgeUnderTest(driver))


def test_a_look_that_fails_ends_no_stream_silently_and_the_next_start_looks_again() -> None:
    class Failing(ConsoleDriver):
        fails = False

        def members(self) -> Any:
            if self.fails:
                raise RuntimeError("planted")
            return super().members()

    driver = Failing()

    async def test() -> None:
        async with EdgeUnderTest(driver) as edge:
            feed = edge.api.feed
            feed.look_s = 0.0
            wire, _ = await opened(edge)
            driver.fails = True
            await until(lambda: edge.failures)
            closed = await wire.is_closed()
            early = await edge.connect()
            await early.send(request("GET", EVENTS))
            await early.stream()
            await early.event()
            refused = await early.is_closed()
            driver.fails = False
            _, again = await opened(edge)

            assert closed and refused and {str(error) for error in edge.failures} == {"planted"}
            assert again["event"] == "full" and feed.streams == 1

    asyncio.run(test())


# --- what is new -------------------------------------------------------------------------------------------------


def test_times_that_only_wobble_are_no_news() -> None:
    driver = ConsoleDriver()

    async def test(edge: EdgeUnderTest) -> None:
        feed = edge.api.feed
        feed.look()
        first = feed.number
        for wobble_s in (0.4, -0.4, 0.2):
            driver.wobble_s = wobble_s
            feed.look()
        steady = feed.number
        driver.wobble_s = 60.0
        feed.look()

        assert (steady, feed.number) == (first, first + 1)

    serve(test, EdgeUnderTest(driver))


def test_a_difference_put_onto_the_picture_before_gives_the_picture_after() -> None:
    held = map_of_nodes(5, 32)
    gone = held.by_name["n2"].storage
    rows = Rows()
    before = Picture(members={"n1": {"a": 1}, "n2": {"a": 2}}, shards=rows.of(held, frozenset()))
    after = Picture(
        members={"n1": {"a": 3}}, shards=rows.of(without(held, gone), frozenset({gone})), plan={"copies": 1}
    )
    changed = difference(before, after)
    shards = list(before.shards)
    for number, row in changed["shards"].items():
        shards[int(number)] = row

    assert tuple(shards) == after.shards
    assert changed["members"] == {"n1": {"a": 3}, "n2": None} and changed["plan"] == {"copies": 1}
    assert set(changed) == {"members", "shards", "plan"} and difference(after, after) == {}
    assert 0 < len(changed["shards"]) < 32


def test_rows_are_made_anew_only_where_the_map_changed() -> None:
    held = map_of_nodes(5, 32)
    rows = Rows()
    first = rows.of(held, frozenset())
    other = next(copy.storage for copy in held.shards[7].in_sync if copy.storage != held.shards[7].primary.storage)
    second = rows.of(with_primary(held, 7, other), frozenset())

    assert rows.of(held, frozenset()) is not first
    assert [number for number, (old, new) in enumerate(zip(first, second, strict=True)) if old is not new] == [7]
    assert counts_of(second) == {"total": 32, "ok": 32, "moving": 0, "under_replicated": 0, "unavailable": 0}


def test_a_shard_whose_primary_is_dead_is_unavailable_until_somebody_else_leads_it() -> None:
    held = map_of_nodes(5, 32)
    gone = held.by_name["n2"].storage
    rows = Rows()
    led = sum(1 for shard in held.shards if shard.primary.storage == gone)
    held_there = sum(1 for shard in held.shards if shard.is_in_sync(gone))
    dead = counts_of(rows.of(held, frozenset({gone})))
    failed_over = counts_of(rows.of(without(held, gone), frozenset({gone})))

    assert (dead["unavailable"], dead["ok"]) == (led, 32 - led)
    assert (failed_over["unavailable"], failed_over["under_replicated"]) == (0, held_there)


# --- rates -------------------------------------------------------------------------------------------------------


def counted(slot: int, count: int, failed: int = 0) -> Counted:
    durations = [0] * SLOTS
    durations[slot] = count
    return Counted(tuple(durations), failed)


def test_rates_are_differences_of_two_answers_of_one_boot() -> None:
    meter = Meter()
    meter.hear(Figures(node="n1", boot_id="b", at=10.0, reads=counted(1, 100), committed=5), 1000.0)
    alone = meter.shown()
    meter.hear(
        Figures(node="n1", boot_id="b", at=12.0, reads=counted(1, 140, 2), committed=15, disk_free_bytes=123_456_789),
        1002.0,
    )
    both = meter.shown()
    meter.hear(Figures(node="n1", boot_id="c", at=1.0, reads=counted(1, 3)), 1003.0)
    restarted = meter.shown()

    assert alone[""] == {"nodes": 0, "in_flight": 0} and "reads_per_s" not in alone["n1"]
    assert both["n1"] == {
        "in_flight": 0,
        "disk_free_bytes": 120_000_000,
        "copy_bytes": 0,
        "log_bytes": 0,
        "disk_full": False,
        "disk_stalled": False,
        "reads_per_s": 20.0,
        "writes_per_s": 0.0,
        "failed_per_s": 1.0,
        "forwards_per_s": 0.0,
        "committed_per_s": 5.0,
        "received_bytes_per_s": 0,
        "reads_ms": [0.75, 0.99],
        "writes_ms": [None, None],
    }
    assert "reads_per_s" not in restarted["n1"] and restarted[""]["nodes"] == 0


def test_who_is_silent_or_gone_has_no_figures() -> None:
    meter = Meter()
    meter.hear(Figures(node="n1", boot_id="b", at=1.0), 100.0)
    meter.hear(Figures(node="n2", boot_id="b", at=1.0), 115.0)
    meter.keep({"n1", "n2"}, 121.0)
    after_silence = set(meter.figures)
    meter.keep({"n1"}, 121.0)

    assert (after_silence, set(meter.figures)) == ({"n2"}, set())


@pytest.mark.parametrize(
    ("durations", "part", "expected"),
    [
        (Counted(), 0.5, None),
        (counted(0, 10), 0.5, 0.25),
        (counted(SLOTS - 1, 10), 0.99, 60_000.0),
        (Counted((0, 98, *[0] * (SLOTS - 3), 2)), 0.5, 0.76),
        (Counted((0, 98, *[0] * (SLOTS - 3), 2)), 0.99, 60_000.0),
    ],
)
def test_percentiles_are_read_from_the_histogram(durations: Counted, part: float, expected: float | None) -> None:
    assert percentile_ms(durations, part) == expected


def test_a_node_tells_what_it_has_counted_and_only_of_documents() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        await edge.ask("PUT", "/v1/users/ada/docs/k", b"1")
        await edge.ask("GET", "/v1/users/ada/docs/k")
        await edge.ask("GET", "/v1/users/ada/docs/none")
        await edge.ask("GET", "/v1/users/ada/docs")
        await edge.ask("GET", "/v1/cluster")
        edge.driver.running = RunningPlan(reason="drain n2", since=1.0, copies=2, copies_done=1, primaries=0)
        figures = msgspec.json.decode((await edge.ask("GET", "/v1/cluster/rates")).body, type=Figures)

        assert (figures.node, figures.boot_id) == ("n1", FakeIdentity().boot)
        assert (figures.reads.total, figures.reads.failed, figures.writes.total) == (3, 0, 1)
        assert figures.plan == edge.driver.running

    serve(test)


def test_the_console_asks_the_other_nodes_for_their_figures_while_somebody_looks() -> None:
    async def test() -> None:
        other = ConsoleDriver()
        other.identity = FakeIdentity(name="n2", storage="5000000000000002")
        async with EdgeUnderTest(other) as second:
            await second.ask("GET", "/v1/users/ada/docs/none")
            async with EdgeUnderTest(ConsoleDriver(2, url=f"http://127.0.0.1:{second.port}")) as edge:
                feed = edge.api.feed
                feed.look_s = 0.0
                await opened(edge)
                await until(lambda: "n2" in feed._meter.figures, limit=10_000_000)

                assert feed._meter.figures["n2"].reads.total == 1
                assert edge.failures == second.failures == []

    asyncio.run(test())


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "nonsense", "http://[::1"])
def test_a_node_that_cannot_be_asked_has_no_figures_and_harms_nobody(url: str) -> None:
    async def test(edge: EdgeUnderTest) -> None:
        feed = edge.api.feed
        feed.look_s = 0.0
        await opened(edge)
        await until(lambda: "n2" in feed._asked)
        await until(lambda: not feed._asks)

        assert set(feed._meter.figures) == {"n1"}

    serve(test, EdgeUnderTest(ConsoleDriver(2, url=url)))


# --- what if -----------------------------------------------------------------------------------------------------


def test_thinking_of_a_change_needs_no_token_and_gives_the_plan_that_post_gives() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        asked = {
            "members=n1,n2,n3,n4": {"members": ["n1", "n2", "n3", "n4"]},
            "drain=n3&members=n1,n2,n3,n4": {"members": ["n1", "n2", "n3", "n4"], "drain": ["n3"]},
            "weights=n1:2,n2:0.5": {"weights": {"n1": 2.0, "n2": 0.5}},
        }
        thought = [(await edge.ask("GET", f"/v1/cluster/plan?{query}")).json for query in asked]
        given = [
            (await edge.ask("POST", "/v1/cluster/plan", msgspec.json.encode(body), Authorization="Bearer s3cret")).json
            for body in asked.values()
        ]
        refused = await edge.ask("POST", "/v1/cluster/plan", b"{}")
        brief = (await edge.ask("GET", "/v1/cluster/plan?members=n1,n2,n3,n4&steps=false")).json

        assert thought == given and thought[0]["copies"] > 0
        assert refused.code == "unauthorized" and edge.driver.proposed == []
        assert brief == {**thought[0], "steps": []}

    serve(test, EdgeUnderTest(admin_token="s3cret"))


def test_an_impossible_or_misspelled_thought_is_refused_in_words() -> None:
    async def test(edge: EdgeUnderTest) -> None:
        edge.driver.facts_set = {name: NodeFacts(NodeState.DEAD_IN_GRACE) for name in ("n1", "n2")}
        targets = ("drain=n9", "drain=n3", "weights=n1", "weights=n1:x", "members=N%201", "scale=3")
        answers = [await edge.ask("GET", f"/v1/cluster/plan?{target}") for target in targets]

        assert [answer.code for answer in answers] == [
            "not_found",
            "conflict",
            "bad_request",
            "bad_request",
            "bad_request",
            "bad_request",
        ]

    serve(test)
