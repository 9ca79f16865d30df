"""A page of the console in a real headless Chromium, for tests, benchmarks and the pictures in docs.

The browser is the machine's own (Debian: ``chromium``); playwright only drives it and downloads none. Whatever the page
complains of, a refused piece of content or a failure in its code, is kept: no test may pass over it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from playwright.async_api import Page, Request, ViewportSize, async_playwright

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DESKTOP: ViewportSize = {"width": 1440, "height": 1000}
PHONE: ViewportSize = {"width": 360, "height": 740}
POLL_S = 0.05
LIMIT_MS = 30_000
"""When a test is ended that waits for something that never comes."""


def browser_path() -> str | None:
    """Return where a Chromium is, or None."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


class ConsolePage:
    """One open page, and all that it said and asked for."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.requests: list[tuple[str, str]] = []
        page.set_default_timeout(LIMIT_MS)
        page.on("console", self._said)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._requested)

    def _said(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _requested(self, request: Request) -> None:
        self.requests.append((request.method, request.url))

    async def open(self, url: str) -> None:
        """Load the console of a node and wait until its first picture is drawn."""
        await self.page.goto(url)
        await self.until("document.querySelectorAll('#members tbody tr').length > 0")

    async def until(self, condition: str) -> None:
        """Wait until an expression is true in the page. Not playwright's own way: the page's policy forbids its ``eval``."""
        try:
            async with asyncio.timeout(LIMIT_MS / 1000):
                while not await self.page.evaluate(f"Boolean({condition})"):  # noqa: ASYNC110 - the page tells nobody
                    await asyncio.sleep(POLL_S)
        except TimeoutError:
            raise AssertionError(f"it never came to {condition}; the page complained of {self.complaints}") from None

    async def look(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        return await self.page.evaluate(expression)

    async def text(self, selector: str) -> str:
        """Return the text of an element as people see it."""
        return await self.page.inner_text(selector)


@asynccontextmanager
async def console_page(
    *,
    viewport: ViewportSize = DESKTOP,
    colours: Literal["light", "dark"] = "light",
    scale: float = 1.0,
) -> AsyncIterator[ConsolePage]:
    """Start a browser with one empty page; it ends with the block."""
    path = browser_path()
    assert path is not None, "no Chromium is installed"
    # Root has no other choice: Chromium's sandbox needs user namespaces that root may not make in a container.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as driver:
        browser = await driver.chromium.launch(executable_path=path, args=[*arguments, "--disable-gpu"])
        try:
            context = await browser.new_context(
                viewport=viewport, color_scheme=colours, device_scale_factor=scale, locale="en-GB", timezone_id="UTC"
            )
            yield ConsolePage(await context.new_page())
        finally:
            await browser.close()
