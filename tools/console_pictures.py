"""Make the pictures of the web console in docs: docs/console-light.svg, -dark.svg and -phone.svg.

    .venv/bin/python -P tools/console_pictures.py [FOLDER]

A local cluster of five real nodes is started in a temporary folder and loaded a little; Chromium opens its console, a user
is looked up, a node is killed. What the page shows then is written down as it stands in the browser: an SVG whose
foreignObject holds the elements and the styles that apply to them. So a picture is text that can be reviewed, and sharp at
every size. It runs nothing and refers to nothing outside of itself; it is drawn once as an image to prove that.
"""

from __future__ import annotations

import asyncio
import base64
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

from ringkeep.async_client import AsyncClient  # noqa: E402 - the path of the test support comes first
from ringkeep.errors import RingkeepError  # noqa: E402
from ringkeep_testing.console_pages import DESKTOP, PHONE, ConsolePage, console_page  # noqa: E402
from ringkeep_testing.real_cluster import RealCluster  # noqa: E402

BYTES_MAX = 300 * 1024
NODES = 5
SHARDS = 256
PER_S = 120
WATCHED_S = 14.0
"""How long the page is open before it is written down: the curves of the requests need some points."""

SNAPSHOT = r"""
(theme) => {
  const rules = (list) => [...list].map((rule) => {
    if (rule instanceof CSSMediaRule) return matchMedia(rule.conditionText).matches ? rules(rule.cssRules) : "";
    return rule.cssText;
  }).join("\n");
  const styles = [...document.styleSheets].map((sheet) => rules(sheet.cssRules)).join("\n");
  const body = document.body.cloneNode(true);
  for (const one of body.querySelectorAll("script, noscript, dialog, .skip, [hidden]")) one.remove();
  for (const one of body.querySelectorAll("a")) one.removeAttribute("href");
  for (const kind of ["input", "select"]) {
    const live = document.body.querySelectorAll(kind + "[id]");
    for (const one of live) {
      const copy = body.querySelector("#" + one.id);
      if (copy && kind === "input") copy.setAttribute("value", one.value);
    }
  }
  const size = [document.documentElement.clientWidth, document.documentElement.scrollHeight];
  const box = `width="${size[0]}" height="${size[1]}" viewBox="0 0 ${size[0]} ${size[1]}"`;
  const head = `<svg xmlns="http://www.w3.org/2000/svg" ${box} data-theme="${theme}">`;
  // Text of a style element is XML here, so it is escaped like any other.
  const style = document.createElementNS("http://www.w3.org/2000/svg", "style");
  style.textContent = styles + "\na { text-decoration: underline }\n::-webkit-scrollbar { display: none }";
  const xml = new XMLSerializer();
  const inside = xml.serializeToString(body);
  return `${head}${xml.serializeToString(style)}<foreignObject width="100%" height="100%">${inside}</foreignObject></svg>\n`;
}
"""


async def load(urls: list[str]) -> None:
    """Read and write a little, all the time; what a kill does to it is what the pictures show."""
    draw = random.Random(1)
    async with AsyncClient(urls, timeout_s=10.0) as client:

        async def one(number: int) -> None:
            user, key = f"user-{draw.randrange(2000)}", f"notes/{number % 20}"
            try:
                if draw.random() < 0.4:
                    await client.put(user, key, b"x" * 400)
                else:
                    await client.get(user, key)
            except RingkeepError:
                return

        running: set[asyncio.Task[None]] = set()
        number = 0
        try:
            while True:
                task = asyncio.create_task(one(number))
                running.add(task)
                task.add_done_callback(running.discard)
                number += 1
                await asyncio.sleep(1 / PER_S)
        finally:
            await asyncio.gather(*running, return_exceptions=True)


async def written(seen: ConsolePage, theme: str, path: Path) -> None:
    """Write down what the page shows, and prove that it is a whole picture."""
    text = await seen.page.evaluate(SNAPSHOT, theme)
    assert "<script" not in text and "src=" not in text and len(text.encode()) <= BYTES_MAX, len(text)
    await asyncio.to_thread(path.write_text, text, encoding="utf-8")
    async with console_page() as other:
        data = base64.b64encode(text.encode()).decode()
        await other.page.set_content(f'<img src="data:image/svg+xml;base64,{data}">')
        await other.until("document.images[0].complete")
        width = await other.look("document.images[0].naturalWidth")
    assert width > 0
    print(f"{path.relative_to(ROOT) if path.is_relative_to(ROOT) else path}: {len(text.encode())} bytes")


async def story(cluster: RealCluster, folder: Path) -> None:
    """All is well; then a node is killed."""
    await cluster.up(NODES, shards=SHARDS)
    work = asyncio.create_task(load(cluster.urls(without=["n4"])))
    url = cluster.node("n1").url
    async with console_page() as light, console_page(colours="dark") as dark, console_page(viewport=PHONE) as phone:
        for seen in (light, dark, phone):
            await seen.open(url)
        await asyncio.sleep(WATCHED_S)
        await light.page.fill("#user", "alice")
        await light.page.click("#lookup button")
        await light.page.fill("#count", "6")
        await light.page.click("#what-scale button")
        await light.until("document.querySelector('#plan table') && document.querySelector('#found').textContent")
        await light.page.evaluate("document.activeElement.blur()")
        await written(light, "light", folder / "console-light.svg")
        cluster.kill("n4")
        for seen in (dark, phone):
            await seen.until("document.querySelector('#history .failovers')")
            await seen.until(
                "Number(document.querySelector('#legend [data-state=under_replicated] b').textContent) > 0"
            )
        await asyncio.sleep(2.0)
        await written(dark, "dark", folder / "console-dark.svg")
        await written(phone, "light", folder / "console-phone.svg")
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


def main() -> int:
    """Make all three."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "docs"
    assert DESKTOP["width"] == 1440
    with tempfile.TemporaryDirectory() as place, RealCluster(Path(place) / "cluster") as cluster:
        asyncio.run(story(cluster, folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
