"""Listing: what a provider lists for all tenants, without what is not the asking account's.

Rules
-----
- The client gets a page as large as it asked for, and `first_id`, `last_id` and `has_more` that fit what it got: the
  provider's pages are read on until there is enough, or no more.
- Entries pass as the provider wrote them.
- Most of what is listed is others', so nobody waits for what another worker may have claimed this very moment: it may
  take a moment until it is listed.
- An account that owns little among much must not keep us reading: after `PAGES_MAXIMUM` pages an empty list is refused
  in words, never passed off as the end.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import parse_qsl, quote
from uuid import UUID

import msgspec
import orjson

from meterproxy.core.resource import Resource, ownable
from meterproxy.errors import ApiError, Case, StoreUnavailable
from meterproxy.proxy.forward import unreadable
from meterproxy.proxy.ports import Owners

PAGE: Final = 100
"""Entries that are asked of the provider at a time, its own maximum."""
PAGE_DEFAULT: Final = 20
"""Entries that a client gets that does not say how many. Source: OpenAI's API reference."""
PAGES_MAXIMUM: Final = 50

Fetch = Callable[[str], Awaitable[bytes]]
"""Asks the provider with this query, for the body of its answer."""


class _Entry(msgspec.Struct):
    id: Any = None


class _Page(msgspec.Struct):
    data: list[msgspec.Raw] = []
    has_more: Any = False


_PAGE: Final = msgspec.json.Decoder(_Page)
_ENTRY: Final = msgspec.json.Decoder(_Entry)


class Listing:
    """One list that a client asked for.

    Args:
        kind: of what is listed.
        query: the client's parameters that pass.
    """

    def __init__(self, owners: Owners, account_id: UUID, kind: str, provider: str, query: str) -> None:
        self._owners = owners
        self._account_id = account_id
        self._kind = kind
        self._provider = provider
        self._limit = _limit(query)
        self._after = next((value for name, value in parse_qsl(query) if name == "after"), None)
        self._rest = [pair for pair in query.split("&") if pair and pair.partition("=")[0] not in {"limit", "after"}]

    async def read(self, fetch: Fetch) -> bytes:
        """The list's body.

        Raises:
            ApiError: UNAVAILABLE; UPSTREAM_UNREACHABLE where the provider's answer is no list; as `fetch`.
        """
        owned: list[tuple[str, bytes]] = []
        after, more = self._after, True
        for _ in range(PAGES_MAXIMUM):
            page = _page(await fetch(self._query(after)))
            entries = [(_id(entry), bytes(entry)) for entry in page.data]
            owned += await self._owned(entries)
            more = page.has_more is True and bool(entries)
            if len(owned) > self._limit or not more:
                break
            after = entries[-1][0]
        if more and not owned:
            raise ApiError(Case.UNAVAILABLE, "There is too much to look through. Narrow the list by model or metadata.")
        return _written(owned[: self._limit], has_more=more or len(owned) > self._limit)

    def _query(self, after: str | None) -> str:
        cursor = [] if after is None else [f"after={quote(after, safe='')}"]
        return "&".join([*self._rest, f"limit={PAGE}", *cursor])

    async def _owned(self, entries: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
        try:
            owners = await asyncio.gather(*(self._owns(id_) for id_, _ in entries))
        except StoreUnavailable:
            raise ApiError(Case.UNAVAILABLE, "The list cannot be read right now. Please try again.") from None
        return [entry for entry, owns in zip(entries, owners, strict=True) if owns]

    async def _owns(self, id_: str) -> bool:
        if not ownable(id_):
            return False
        known = self._owners.known(self._account_id, self._kind, id_)
        if known is True:
            known = await self._owners.find(self._account_id, self._kind, id_, patient=False) or False
        return isinstance(known, Resource) and known.provider == self._provider


def _limit(query: str) -> int:
    """The number of entries that the client asked for."""
    value = next((value for name, value in parse_qsl(query) if name == "limit"), None)
    if value is None:
        return PAGE_DEFAULT
    if not (value.isascii() and value.isdigit() and len(value) < 4 and 1 <= int(value) <= PAGE):
        raise ApiError(Case.MALFORMED, f"'limit' must be an integer between 1 and {PAGE}.", param="limit")
    return int(value)


def _page(body: bytes) -> _Page:
    try:
        return _PAGE.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise unreadable("The provider's answer is no list.") from None


def _id(entry: msgspec.Raw) -> str:
    try:
        id_ = _ENTRY.decode(entry).id
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    return id_ if isinstance(id_, str) else ""


def _written(entries: list[tuple[str, bytes]], *, has_more: bool) -> bytes:
    return orjson.dumps(
        {
            "object": "list",
            "data": [orjson.Fragment(entry) for _, entry in entries],
            "first_id": entries[0][0] if entries else None,
            "last_id": entries[-1][0] if entries else None,
            "has_more": has_more,
        }
    )
