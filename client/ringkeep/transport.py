"""One HTTP exchange with one node: the only module of the library that touches aiohttp.

aiohttp's errors become ours here: a connection that was never made is ``Unavailable`` (certainly nothing happened), one
that broke or ran out of time is ``OutcomeUnknown``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
from yarl import URL

from ringkeep.errors import OutcomeUnknown, RingkeepError, Unavailable, UnexpectedAnswer, error_of_answer
from ringkeep.retries import CONNECT_S
from ringkeep_core.ids import check_key, check_user

# What the network and the node's own deadline handling may add to the time that was granted to an attempt.
ANSWER_GRACE_S = 0.5
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """What to send; ``path`` and ``query`` are already encoded."""

    method: str
    path: str
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, whatever the status."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    url: str

    @property
    def shard(self) -> int:
        """The shard that answered, -1 if the answer is of no shard."""
        return _whole(self.headers.get("Ringkeep-Shard"), -1)

    @property
    def epoch(self) -> int:
        """The epoch of the shard that answered."""
        return _whole(self.headers.get("Ringkeep-Epoch"), 0)

    @property
    def node(self) -> str:
        """The name of the node that answered."""
        return self.headers.get("Ringkeep-Node", "")

    @property
    def cluster(self) -> str:
        """The id of the cluster that the answering node belongs to, empty if it names none."""
        return self.headers.get("Ringkeep-Cluster", "")

    @property
    def version(self) -> int:
        """The version in the ETag, 0 if there is none."""
        return _whole(self.headers.get("ETag", "").strip().strip('"'), 0)

    @property
    def retry_after_s(self) -> float:
        """How long the node asks to be left alone."""
        return float(_whole(self.headers.get("Retry-After"), 0))

    def error(self) -> RingkeepError | None:
        """Return what a status >= 400 stands for, or None."""
        if self.status < 400:
            return None
        request_id = self.headers.get("Ringkeep-Request-Id", "")
        return error_of_answer(status=self.status, body=self.body, node=self.node, request_id=request_id)


def decoded(answer: Answer, kind: type[T]) -> T:
    """Return an answer's JSON as a typed value. Raises ``UnexpectedAnswer``."""
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError) as error:
        raise UnexpectedAnswer(f"{answer.url} answered something that is not a {kind.__name__}: {error}") from error


def document_path(user: str, key: str) -> str:
    """Return the path of a document. ``/`` in a key stays, in a user it is %2F. Raises ``BadRequest``."""
    return f"{documents_path(user)}/{quote(check_key(key), safe='/')}"


def documents_path(user: str) -> str:
    """Return the path of all documents of a user. Raises ``BadRequest``."""
    return f"/v1/users/{quote(check_user(user), safe='')}/docs"


def route_path(user: str) -> str:
    """Return the path that says where a user lives. Raises ``BadRequest``."""
    return f"/v1/users/{quote(check_user(user), safe='')}/route"


def query_of(**parameters: object) -> str:
    """Return the encoded query of the parameters that are not None."""
    return urlencode(
        {name: value for name, value in parameters.items() if value is not None},
        errors="surrogatepass",
        quote_via=quote,
    )


class Transport:
    """A pool of connections. Made and closed inside a running loop."""

    def __init__(self, *, connections_max: int, headers: Mapping[str, str]) -> None:
        connector = aiohttp.TCPConnector(limit=connections_max, limit_per_host=0, keepalive_timeout=30)
        self._session = aiohttp.ClientSession(
            connector=connector, headers=dict(headers), cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        )
        # aiohttp sends PUT and DELETE a second time when a kept connection breaks, and reports only the second outcome:
        # "cannot connect" would then hide that the first one may have been applied. Retrying is done above, in the open.
        self._session._retry_connection = False

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def exchange(
        self, url: str, request: Request, *, attempt_s: float, total_s: float, connect_s: float = CONNECT_S
    ) -> Answer:
        """Send one request to one node and return its whole answer.

        A silence of ``attempt_s`` ends the attempt (the node hangs); an answer that keeps coming may take ``total_s``.
        Making a connection may take ``connect_s``, and never longer than the attempt.

        Raises:
            Unavailable: no connection was made, so nothing was sent.
            OutcomeUnknown: it broke or took too long after that.
        """
        target = URL(url + request.path + (f"?{request.query}" if request.query else ""), encoded=True)
        silence_s = attempt_s + ANSWER_GRACE_S
        timeout = aiohttp.ClientTimeout(
            total=total_s + ANSWER_GRACE_S,
            # The grace is the network's here as well: what little an attempt has left must not decide what is alive.
            sock_connect=min(connect_s, silence_s),
            sock_read=silence_s,
        )
        try:
            async with self._session.request(
                request.method,
                target,
                data=request.body,
                headers=request.headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                return Answer(response.status, response.headers, await response.read(), url)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise Unavailable(f"cannot connect to {url}") from error
        except TimeoutError as error:
            raise OutcomeUnknown(f"no answer from {url} in time") from error
        except (aiohttp.ClientError, ConnectionError, OSError) as error:
            raise OutcomeUnknown(f"the connection to {url} broke") from error


def _whole(text: str | None, default: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() else default
