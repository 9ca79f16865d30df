"""``top``: the cluster live in the terminal; in a pipe a plain snapshot now and then.

look --interval--> look --interval--> ...     each is shown; keys are heard in between
q, Ctrl-C, a closed pipe, SIGTERM             end it, and the terminal is as it was before
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import termios
import tty
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.live import Live

from ringkeep.command.endpoint import addresses_for, silent_nodes
from ringkeep.command.options import DirOption, Output, OutputOption, UrlOption
from ringkeep.command.screen import console, write_bytes, write_json
from ringkeep.command.top_screen import Choice, drawn, plain
from ringkeep.errors import Unavailable
from ringkeep.watching import DEADLINE_S, Picture, Watch

KEY_BYTES_MAX = 64
KEYS = {b"q": "quit", b"Q": "quit", b"s": "sort", b"\x1b[A": "up", b"\x1b[B": "down", b"k": "up", b"j": "down"}
_LONGEST_FIRST = sorted(KEYS, key=len, reverse=True)

Show = Callable[[Picture], None]
Pause = Callable[[float], Awaitable[bool]]
"""Wait so many seconds; return whether to end."""


def top(
    interval: Annotated[
        float, typer.Option("--interval", min=0.2, max=3600, metavar="SECONDS", help="Time between two looks.")
    ] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Measure for one interval, print that, end.")] = False,
    url: UrlOption = None,
    directory: DirOption = None,
    output: OutputOption = Output.TEXT,
) -> None:
    """Watch the cluster live: members, requests, latencies, disks, moves. q ends, s sorts, arrows scroll.

    In a pipe it prints a plain snapshot at each interval, with --output json one object a line.
    """
    screen = console()
    is_live = screen.is_terminal and output is Output.TEXT and not once
    addresses, cluster_id = addresses_for(url, directory, running_only=False)

    def watch() -> Watch:
        return Watch(addresses, cluster_id=cluster_id, given=bool(url), deadline_s=min(DEADLINE_S, interval))

    def told(picture: Picture) -> Picture:
        return _with_processes(picture, url, directory)

    try:
        if is_live:
            asyncio.run(_live(watch(), told, screen, interval))
        else:
            asyncio.run(_printed(watch(), told, output, interval, once=once))
    except KeyboardInterrupt:
        return
    except Unavailable as error:
        raise silent_nodes(url, directory, error) from error
    except BrokenPipeError:
        # Whoever read has gone (`ringkeep top | head`), which is how an endless output usually ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _with_processes(picture: Picture, url: str | None, directory: Path | None) -> Picture:
    """Say which processes are down where nobody answers."""
    if not picture.problem:
        return picture
    told = silent_nodes(url, directory, Unavailable(picture.problem))
    return msgspec.structs.replace(picture, problem=str(told))


async def looking(watch: Watch, show: Show, pause: Pause, interval_s: float, *, once: bool, at_once: bool) -> None:
    """Look again and again and show what is seen, until ``pause`` says that it is enough.

    Rates need two looks: the first one is shown only where somebody waits for the screen to fill (``at_once``).
    """
    loop = asyncio.get_running_loop()
    async with watch:
        begun = loop.time()
        picture = await watch.look()
        if at_once:
            show(picture)
        while not await pause(max(0.0, begun + interval_s - loop.time())):
            begun = loop.time()
            picture = await watch.look()
            show(picture)
            if once:
                return


# --- printed -----------------------------------------------------------------------------------------------------


async def _printed(
    watch: Watch, told: Callable[[Picture], Picture], output: Output, interval_s: float, *, once: bool
) -> None:
    def show(picture: Picture) -> None:
        if once and picture.problem:
            raise Unavailable(picture.problem)
        picture = told(picture)
        if output is Output.JSON:
            write_json(msgspec.json.encode(picture))
        else:
            write_bytes("".join(f"{line}\n" for line in [*plain(picture), *([] if once else [""])]).encode())

    async def pause(seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return False

    await looking(watch, show, pause, interval_s, once=once, at_once=False)


# --- live --------------------------------------------------------------------------------------------------------


class Screen:
    """What the terminal shows: the last picture as the person at the keys has chosen it; drawn anew when resized."""

    def __init__(self, every_s: float) -> None:
        self.picture: Picture | None = None
        self.choice = Choice()
        self._every_s = every_s

    def press(self, key: str) -> None:
        """Take a key."""
        rows = len(self.picture.nodes) if self.picture is not None else 0
        self.choice = self.choice.after(key, rows)

    def __rich_console__(self, screen: Console, options: ConsoleOptions) -> RenderResult:
        if self.picture is not None:
            height = options.height or screen.height
            lines = drawn(self.picture, self.choice, width=options.max_width, height=height, every_s=self._every_s)
            yield Group(*lines)


def keys_of(data: bytes) -> list[str]:
    """Return which keys were pressed, by meaning; what means nothing is passed over."""
    pressed = []
    while data:
        found = next((key for key in _LONGEST_FIRST if data.startswith(key)), None)
        if found is not None:
            pressed.append(KEYS[found])
        data = data[len(found) if found is not None else 1 :]
    return pressed


async def _live(watch: Watch, told: Callable[[Picture], Picture], screen: Console, interval_s: float) -> None:
    ended = asyncio.Event()
    shown = Screen(interval_s)
    with _keyboard() as keyboard, Live(shown, console=screen, screen=True, auto_refresh=False) as live:

        def show(picture: Picture) -> None:
            shown.picture = told(picture)
            live.refresh()

        def pressed() -> None:
            data = os.read(keyboard, KEY_BYTES_MAX)
            for key in ["quit"] if not data else keys_of(data):  # No data: the terminal is gone.
                if key == "quit":
                    ended.set()
                shown.press(key)
            live.refresh()

        async def pause(seconds: float) -> bool:
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await ended.wait()
            return ended.is_set()

        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        if keyboard >= 0:
            loop.add_reader(keyboard, pressed)
        try:
            await looking(watch, show, pause, interval_s, once=False, at_once=True)
        finally:
            if keyboard >= 0:
                loop.remove_reader(keyboard)


@contextmanager
def _keyboard() -> Iterator[int]:
    """Have single keys arrive without echo; Ctrl-C still interrupts. Gives -1 where there is no keyboard."""
    if not sys.stdin.isatty():
        yield -1
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield descriptor
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
