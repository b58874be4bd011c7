"""Calls: what an endpoint of the operator's API is given, one request and all that can be done."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

from aiohttp import web

from meterproxy.errors import ApiError, Case
from meterproxy.store.accounts import Accounts
from meterproxy.store.fleet import Fleet
from meterproxy.store.keys import Keys
from meterproxy.store.limits import Limits
from meterproxy.store.teams import Teams

MOST_ROWS: Final = 500
DEFAULT_ROWS: Final = 50
DIGITS: Final = 19
"""Of the longest number that a query may hold."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What the rest of the worker answers for it: `unready` says why it cannot serve, or None."""

    unready: Callable[[], str | None]
    metrics: Callable[[], Awaitable[tuple[bytes, str]]]
    settle_now: Callable[[], Awaitable[None]]
    explain: Callable[[UUID], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Services:
    """All that endpoints can have done."""

    accounts: Accounts
    keys: Keys
    limits: Limits
    teams: Teams
    fleet: Fleet
    machine: Machine


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as the endpoints see it."""

    ids: tuple[str, ...]
    query: Mapping[str, str]
    body: bytes

    def id(self) -> UUID:
        """The id in the path. Raises ApiError NOT_FOUND where it is no id at all."""
        try:
            return UUID(self.ids[0])
        except ValueError as error:
            raise ApiError(Case.NOT_FOUND, "There is nothing under this id.") from error

    def id_in_query(self, name: str) -> UUID | None:
        text = self.query.get(name)
        try:
            return UUID(text) if text else None
        except ValueError as error:
            raise ApiError(Case.MALFORMED, f"{name} is not an id.", param=name) from error

    def number(self, name: str, default: int | None, most: int) -> int | None:
        text = self.query.get(name)
        if text is None:
            return default
        number = int(text) if text.isascii() and text.isdigit() and len(text) <= DIGITS else 0
        if not 1 <= number <= most:
            raise ApiError(Case.MALFORMED, f"{name} must be a number from 1 to {most}.", param=name)
        return number

    def limit(self) -> int:
        return self.number("limit", DEFAULT_ROWS, MOST_ROWS) or DEFAULT_ROWS


Endpoint = Callable[[Services, Call], Awaitable[web.Response]]
