"""Issuer: what an OpenID provider publishes of itself, fetched from its well-known address.

Rules
-----
- Its document must name the issuer that was asked, and its addresses must be https like its own.
- Bounded in time and bytes, without redirects; kept for an hour, and for a day while the issuer is away. A failed fetch
  is not repeated for a while.

Source: OpenID Connect Discovery 1.0.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import aiohttp
import orjson

from meterproxy.errors import ApiError, Case

DISCOVERY: Final = "/.well-known/openid-configuration"
FETCH_SECONDS: Final = 5.0
KEPT_SECONDS: Final = 3600.0
STALE_SECONDS: Final = 86_400.0
RETRY_SECONDS: Final = 10.0
MOST_BYTES: Final = 512 * 1024

_log: Final = logging.getLogger(__name__)
_NEVER: Final = float("-inf")


class Document(NamedTuple):
    """Where people sign in, and where codes are exchanged."""

    authorization_endpoint: str
    token_endpoint: str


class Issuer:
    """One issuer. `clock`: monotonic seconds."""

    def __init__(self, issuer: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._issuer = issuer
        self._clock = clock
        self._document: Document | None = None
        self._fetched = self._tried = _NEVER
        self._turn = asyncio.Lock()

    async def document(self) -> Document:
        """What it publishes. Raises ApiError UNAVAILABLE."""
        if self._document is not None and self._turn.locked() and self._clock() - self._fetched < STALE_SECONDS:
            return self._document  # somebody fetches it anew, and this one stands meanwhile
        async with self._turn:
            now = self._clock()
            if now - self._fetched >= KEPT_SECONDS and now - self._tried >= RETRY_SECONDS:
                self._tried = now
                await self._fetch(now)
            if self._document is None or now - self._fetched >= STALE_SECONDS:
                raise ApiError(Case.UNAVAILABLE, "The sign-in provider does not answer right now.")
            return self._document

    async def _fetch(self, now: float) -> None:
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(FETCH_SECONDS)) as session:
                document = await discovered(session, self._issuer)
            self._document = Document(
                address_in(document, "authorization_endpoint", self._issuer),
                address_in(document, "token_endpoint", self._issuer),
            )
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            _log.warning("an issuer's document cannot be used", extra={"issuer": self._issuer, "error": str(error)})
        else:
            self._fetched = now


async def discovered(session: aiohttp.ClientSession, issuer: str) -> dict[str, Any]:
    """An issuer's document. Raises ValueError, aiohttp.ClientError, TimeoutError."""
    document = await fetched(session, issuer.rstrip("/") + DISCOVERY)
    if document.get("issuer") != issuer:
        raise ValueError("the discovery document is not this issuer's")
    return document


def address_in(document: dict[str, Any], name: str, issuer: str) -> str:
    """One of its addresses. Raises ValueError where there is none, or it is less safe than the issuer's own."""
    url = document.get(name)
    if not isinstance(url, str):
        raise ValueError(f"the discovery document has no {name}")  # noqa: TRY004  as all that is wrong with one
    if not url.startswith(issuer.partition("://")[0] + "://") and not url.startswith("https://"):
        raise ValueError("the discovery document leads away from https")
    return url


async def fetched(session: aiohttp.ClientSession, url: str) -> dict[str, Any]:
    """A JSON object from an address. Raises ValueError, aiohttp.ClientError, TimeoutError."""
    async with session.get(url, allow_redirects=False) as answer:
        if answer.status != 200:
            raise ValueError(f"{url} answers {answer.status}")
        return await read_object(answer)


async def read_object(answer: aiohttp.ClientResponse) -> dict[str, Any]:
    """The JSON object in an answer. Raises ValueError where it is none or too large."""
    body = bytearray()
    async for piece in answer.content.iter_any():
        body += piece
        if len(body) > MOST_BYTES:
            raise ValueError(f"{answer.url} answers more than {MOST_BYTES} bytes")
    document = orjson.loads(bytes(body))
    if not isinstance(document, dict):
        raise ValueError(f"{answer.url} answers no object")  # noqa: TRY004  as all that is wrong with an answer
    return document
