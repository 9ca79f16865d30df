"""The web console in a real headless Chromium, against real nodes: what people see, and what the page asks for.

Skipped where no Chromium is installed (Debian: ``apt-get install chromium``; ``tools/test_programs.sh`` does it).
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from ringkeep_core.hashing import user_hash
from ringkeep_testing.console_pages import PHONE, ConsolePage, browser_path, console_page
from ringkeep_testing.real_cluster import RealCluster, run

pytestmark = pytest.mark.skipif(
    browser_path() is None, reason="no Chromium is installed, so no console can be looked at"
)

SHARDS = 16
WIRE_BYTES_MAX = 150 * 1024
STRANGE = '<img src=x onerror="document.title=1">/ä'
FOCUSED = "document.activeElement.id || document.activeElement.form?.id || document.activeElement.className"


async def counts(seen: ConsolePage) -> dict[str, int]:
    """Return how many shards the legend says are in each state."""
    shown: dict[str, int] = await seen.look(
        "Object.fromEntries([...document.querySelectorAll('#legend li')]"
        ".map((item) => [item.dataset.state, Number(item.querySelector('b').textContent)]))"
    )
    return shown


async def table_of(seen: ConsolePage) -> list[list[str]]:
    """Return the table of shards, row by row."""
    rows: list[list[str]] = await seen.look(
        "[...document.querySelectorAll('.shards tbody tr')].map((row) => [...row.children].map((cell) => cell.innerText))"
    )
    return rows


async def drawn_for(seen: ConsolePage, node: str) -> int:
    """Return how many segments of the track of primaries have the colour of a node."""
    found: int = await seen.look(
        f"""(() => {{
          const swatch = document.querySelector('tr[data-node="{node}"] .swatch rect');
          const colour = swatch.getAttribute('class').slice(1);
          const path = document.querySelector(`.seg[data-track="0"][data-colour="${{colour}}"]`);
          return path ? path.getAttribute('d').split('M').length - 1 : 0;
        }})()"""
    )
    return found


def test_the_console_loads_only_from_its_node_and_says_that_all_is_well(annoyed: RealCluster) -> None:
    async def story() -> None:
        async with console_page() as seen:
            sizes: list[int] = []
            seen.page.on("response", lambda answer: sizes.append(int(answer.headers.get("content-length", 0))))
            url = annoyed.node("n1").url
            await seen.open(url)
            await seen.until("document.querySelector('#headline').dataset.level === 'ok'")
            headline = await seen.text("#headline-text")
            members = await seen.look(
                "[...document.querySelectorAll('#members tbody tr')].map((row) => row.dataset.node)"
            )
            shown = await counts(seen)
            picture = await seen.look(
                "fetch('/v1/cluster').then(() => performance.getEntriesByType('paint').map((entry) => entry.name))"
            )

        assert seen.complaints == []
        assert {method for method, _ in seen.requests} == {"GET"}
        assert all(asked.startswith(url + "/") for _, asked in seen.requests)
        assert 0 < sum(sizes) < WIRE_BYTES_MAX
        assert "All is well" in headline and members == ["n1", "n2", "n3"]
        assert shown == {"ok": SHARDS, "moving": 0, "under_replicated": 0, "unavailable": 0}
        assert "first-contentful-paint" in picture

    run(story())


def test_a_user_is_found_on_the_ring_and_its_name_is_only_text(annoyed: RealCluster) -> None:
    async def story() -> None:
        async with annoyed.client() as client, console_page() as seen:
            place = await client.route(STRANGE)
            assert place.primary is not None
            await seen.open(annoyed.node("n2").url)
            await seen.page.keyboard.press("/")
            await seen.page.keyboard.type(STRANGE)
            await seen.page.keyboard.press("Enter")
            await seen.until("document.querySelector('#found').textContent")
            found, title = await seen.text("#found"), await seen.text("#shard-title")
            at = await seen.look(
                "['cx', 'cy'].map((name) => Number(document.querySelector('.needle circle').getAttribute(name)))"
            )

        hashed = user_hash(STRANGE)
        others = [one.name for one in place.in_sync if one.name != place.primary.name]
        assert seen.complaints == []
        assert re.sub(r"\s+", " ", found) == (
            f"{STRANGE} has the hash {hashed:016x}, so it lives in shard {place.shard}: {place.primary.name} leads it and "
            f"{', '.join(others)} hold further copies."
        )
        assert title == f"Shard {hashed >> 60}"
        assert quarter_of(at) == hashed >> 62

    run(story())


def quarter_of(at: list[float]) -> int:
    """Return in which quarter of the turn a point lies, clockwise from the top."""
    x, y = at
    return (0 if y < 0 else 1) if x >= 0 else (2 if y >= 0 else 3)


def test_the_kill_of_a_node_turns_segments_and_its_return_heals_them(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with console_page() as seen:
            await seen.open(cluster.node("n1").url)
            await seen.until("document.querySelector('#legend [data-state=ok] b').textContent === '16'")
            led = await drawn_for(seen, "n2")
            cluster.kill("n2")
            await seen.until("document.querySelector('tr[data-node=n2]').dataset.health === 'dead'")
            await seen.until("document.querySelector('#legend [data-state=under_replicated] b').textContent === '16'")
            await seen.until("document.querySelector('#history .failovers')")
            dead = (
                await counts(seen),
                await drawn_for(seen, "n2"),
                await seen.look("document.querySelectorAll('.mark').length"),
            )
            said = await seen.text("#headline-text"), await seen.text("tr[data-node=n2] .evidence")
            title = await seen.page.title()
            await cluster.restart("n2")
            await seen.until("document.querySelector('#headline').dataset.level === 'ok'")
            await seen.until("document.querySelector('#legend [data-state=ok] b').textContent === '16'")
            healed = await counts(seen), await seen.look("document.querySelectorAll('.mark').length")

        assert seen.complaints == []
        assert led > 0
        assert dead == ({"ok": 0, "moving": 0, "under_replicated": SHARDS, "unavailable": 0}, 0, 1)
        assert "n2" in said[0] and "for " in said[1]
        assert title.startswith("▲ 16 not ok")
        assert healed == ({"ok": SHARDS, "moving": 0, "under_replicated": 0, "unavailable": 0}, 0)

    run(story())


def test_a_node_that_ends_is_not_taken_for_one_that_is_well(cluster: RealCluster) -> None:
    async def story() -> None:
        await cluster.up(3, shards=SHARDS)
        async with console_page() as seen:
            await seen.open(cluster.node("n3").url)
            cluster.kill("n3")
            await seen.until("document.querySelector('#headline').dataset.level === 'silent'")
            said = await seen.text("#headline-text")
            links = await seen.look(
                "[...document.querySelectorAll('#headline-doing a')].map((one) => one.getAttribute('href'))"
            )
            await cluster.restart("n3")
            await seen.until("document.querySelector('#live').dataset.state === 'live'")
            again = await seen.look("document.querySelector('#headline').dataset.level")

        assert said == "n3 does not answer."
        assert links == cluster.urls(without=["n3"])
        assert again != "silent"

    run(story())


def test_everything_can_be_reached_and_read_without_a_mouse(annoyed: RealCluster) -> None:
    async def story() -> None:
        async with console_page() as seen:
            press = seen.page.keyboard.press
            await seen.open(annoyed.node("n1").url)
            held = [[str(shard.shard), shard.primary.name] for shard in (await _map(annoyed)).shards]
            visited = []
            for _ in range(8):
                await press("Tab")
                visited.append(await seen.look(FOCUSED))
            outline = await seen.look("getComputedStyle(document.activeElement).outlineStyle")
            await press("r")
            walked = []
            for key in ("Home", "ArrowRight", "PageUp", "End"):
                await press(key)
                walked.append(await seen.look("document.querySelector('#ring').getAttribute('aria-valuenow')"))
            told = await seen.look("document.querySelector('#ring').getAttribute('aria-valuetext')")
            shown = await seen.text("#shard-title")
            await press("v")
            rows = await table_of(seen)
            await press("?")
            helped = await seen.look("document.querySelector('#help').open")
            await press("Escape")
            closed = await seen.look("document.querySelector('#help').open")
            await press("/")
            await press("t")
            typed = await seen.look("document.querySelector('#user').value")

        assert seen.complaints == []
        assert visited == ["skip", "theme", "help-button", "show-ring", "show-table", "ring", "user", "lookup"]
        assert outline == "solid"
        assert walked == ["0", "1", "2", "15"]
        assert re.fullmatch(r"Shard 15, ok, primary n\d, in sync n\d, n\d, n\d", told) and shown == "Shard 15"
        assert [[row[0], row[2]] for row in rows] == held
        assert (helped, closed, typed) == (True, False, "t")

    run(story())


async def _map(cluster: RealCluster) -> Any:
    async with cluster.gateway("n1") as client:
        return await client.map()


@pytest.mark.parametrize("preferred", ["light", "dark"])
def test_the_theme_follows_the_system_until_one_is_chosen_and_the_choice_stays(
    preferred: Any, annoyed: RealCluster
) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"

    async def story() -> None:
        async with console_page(colours=preferred) as seen:
            await seen.open(annoyed.node("n1").url)
            grounds = [await seen.look(ground)]
            for _ in range(3):
                await seen.page.keyboard.press("t")
                grounds.append(await seen.look(ground))
            await seen.page.keyboard.press("t")
            await seen.open(annoyed.node("n1").url)
            stayed = await seen.look(ground)

        light, dark = "rgb(245, 246, 244)", "rgb(14, 17, 21)"
        by_system = light if preferred == "light" else dark
        assert seen.complaints == []
        assert grounds == [by_system, light, dark, by_system]
        assert stayed == light

    run(story())


def test_on_a_phone_nothing_sticks_out_and_everything_can_be_hit(annoyed: RealCluster) -> None:
    async def story() -> None:
        async with console_page(viewport=PHONE) as seen:
            await seen.open(annoyed.node("n1").url)
            await seen.page.click("#what-drain button")
            await seen.until(
                "document.querySelector('#plan table') || document.querySelector('#plan').classList.contains('refused')"
            )
            await seen.page.keyboard.press("r")
            width = await seen.look("document.documentElement.scrollWidth")
            outside = await seen.look(
                "[...document.querySelectorAll('main *, header *')].filter((one) => one.getClientRects().length"
                " && one.getBoundingClientRect().right > 361).map((one) => one.outerHTML.slice(0, 80))"
            )
            small = await seen.look(
                "[...document.querySelectorAll('button:not(.link), input:not([type=checkbox]), select')].filter((one) =>"
                " one.getClientRects().length && one.getBoundingClientRect().height < 32).map((one) => one.id)"
            )

        assert seen.complaints == [] or all("409" in one for one in seen.complaints)
        assert (width, outside, small) == (PHONE["width"], [], [])

    run(story())


def test_a_change_that_is_only_thought_of_is_shown_and_changes_nothing(annoyed: RealCluster) -> None:
    async def story() -> None:
        async with console_page() as seen, annoyed.gateway("n1") as client:
            before = await client.wanted()
            await seen.open(annoyed.node("n1").url)
            await seen.page.fill("#count", "4")
            await seen.page.click("#what-scale button")
            await seen.until("document.querySelector('#plan table')")
            grown = await seen.look(
                "[...document.querySelectorAll('#plan tbody th')].map((cell) => cell.innerText.trim())"
            )
            moved = await seen.text("#plan p")
            after = await client.wanted()

        assert grown == ["n1", "n2", "n3", "n4"]
        assert re.match(r"12 copies and \d+ primaries move, ", moved)
        assert after == before
        assert {method for method, _ in seen.requests} == {"GET"}

    run(story())
