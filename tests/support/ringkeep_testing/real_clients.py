"""Clients of a real cluster that write down what they did and saw, for the linearizability checker.

Each operation is exactly one request to one node: no library retries, so a request that was not answered is one open
operation and nothing else. Values are unique. What was certainly not applied (503, no connection) is not recorded.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from math import inf

from ringkeep.errors import OutcomeUnknown, Unavailable
from ringkeep.transport import Answer, Request, Transport, document_path
from ringkeep_testing.linearizability import ANY, Operation, is_linearizable

Document = tuple[str, str]

REQUEST_S = 25.0
"""Longer than any pause in a test: a request to a paused node is answered when the node goes on."""
AVOID_S = 0.5
PACE_S = 0.01


class RecordingClients:
    """Clients that read and change a few documents through given nodes until they are stopped."""

    def __init__(self, documents: Sequence[Document], *, seed: int) -> None:
        self.histories: dict[Document, list[Operation]] = {document: [] for document in documents}
        self.unexpected: list[str] = []
        self.answers = 0
        self._documents = tuple(documents)
        self._random = random.Random(seed)
        self._transport = Transport(connections_max=64, headers={})
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False
        self._written = 0

    def start(self, url: str, clients: int, *, after: asyncio.Event | None = None) -> None:
        """Begin to send from so many clients to one node; ``after``: connect now, and send the second request then."""
        self._tasks += [asyncio.create_task(self._client(url, after)) for _ in range(clients)]

    async def stop(self) -> None:
        """Let every client finish its present operation."""
        self._stopping = True
        await asyncio.gather(*self._tasks)
        await self._transport.close()

    def not_linearizable(self) -> list[Document]:
        """Return the documents whose histories no order explains."""
        return [document for document, history in self.histories.items() if not is_linearizable(history)]

    # -- one client --------------------------------------------------------------------------------------------

    async def _client(self, url: str, after: asyncio.Event | None) -> None:
        seen: dict[Document, tuple[int, str]] = {}
        if after is not None:
            await self._read(url, self._documents[0], seen)
            await after.wait()
        while not self._stopping:
            document = self._random.choice(self._documents)
            draw = self._random.random()
            try:
                if draw < 0.5:
                    await self._read(url, document, seen)
                elif draw < 0.6:
                    await self._delete(url, document)
                else:
                    await self._write(url, document, seen, draw)
            except Unavailable:
                await asyncio.sleep(AVOID_S)
            await asyncio.sleep(PACE_S * self._random.random())

    async def _read(self, url: str, document: Document, seen: dict[Document, tuple[int, str]]) -> None:
        called = _now()
        try:
            answer = await self._send(url, "GET", document, {})
        except OutcomeUnknown:
            return  # A read that was not answered says nothing.
        if answer.status == 200:
            value = answer.body.decode()
            seen[document] = (answer.version, value)
            self._note(document, Operation(called, _now(), "read", value))
        elif answer.status == 404:
            seen.pop(document, None)
            self._note(document, Operation(called, _now(), "read", None))
        else:
            await self._without_effect(answer)

    async def _write(self, url: str, document: Document, seen: dict[Document, tuple[int, str]], draw: float) -> None:
        self._written += 1
        value = f"value {self._written}"
        headers: dict[str, str] = {}
        only_if = unless = None
        if draw < 0.75 and document in seen:
            version, only_if = seen[document]
            headers["If-Match"] = f'"{version}"'
        elif draw > 0.9:
            headers["If-None-Match"], unless = "*", ANY
        called = _now()
        try:
            answer = await self._send(url, "PUT", document, headers, value.encode())
        except OutcomeUnknown:
            self._note(document, Operation(called, inf, "write", value, only_if, unless))
            return
        if answer.status in (200, 201):
            seen[document] = (answer.version, value)
            created = answer.status == 201
            self._note(document, Operation(called, _now(), "write", value, only_if, unless, created))
        elif answer.status == 412:
            seen.pop(document, None)
            self._note(document, Operation(called, _now(), "refused", value, only_if, unless))
        elif answer.status == 504:
            self._note(document, Operation(called, inf, "write", value, only_if, unless))
        else:
            await self._without_effect(answer)

    async def _delete(self, url: str, document: Document) -> None:
        called = _now()
        try:
            answer = await self._send(url, "DELETE", document, {})
        except OutcomeUnknown:
            self._note(document, Operation(called, inf, "write", None, ANY))
            return
        if answer.status == 204:
            self._note(document, Operation(called, _now(), "write", None, ANY))
        elif answer.status == 404:
            self._note(document, Operation(called, _now(), "refused", None, ANY))
        elif answer.status == 504:
            self._note(document, Operation(called, inf, "write", None, ANY))
        else:
            await self._without_effect(answer)

    async def _send(
        self, url: str, method: str, document: Document, headers: Mapping[str, str], body: bytes | None = None
    ) -> Answer:
        head = {**headers, "Ringkeep-Timeout": str(REQUEST_S)}
        request = Request(method, document_path(*document), headers=head, body=body)
        return await self._transport.exchange(url, request, attempt_s=REQUEST_S, total_s=REQUEST_S)

    def _note(self, document: Document, operation: Operation) -> None:
        self.answers += operation.returned != inf
        self.histories[document].append(operation)

    async def _without_effect(self, answer: Answer) -> None:
        if answer.status not in (503, 504):
            self.unexpected.append(f"HTTP {answer.status} from {answer.node}: {answer.body.decode()}")
        await asyncio.sleep(AVOID_S)


def _now() -> float:
    return asyncio.get_running_loop().time()
