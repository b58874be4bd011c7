"""Routes: what may be asked outside of the data plane, one row per method and path.

Dispatch, the access decision, the OpenAPI document and the access matrix of the tests all read these rows.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from aiohttp import web
from pydantic import BaseModel

from meterproxy.control.access import Permission
from meterproxy.control.call import Call, Services
from meterproxy.control.queries import NoQuery
from meterproxy.errors import Case
from meterproxy.proxy.paths import Match, Paths

Endpoint = Callable[[Services, Call], Awaitable[BaseModel | web.StreamResponse | None]]
"""Answers a model that is rendered as JSON, a response of its own, or nothing (204)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One thing that may be asked.

    Args:
        permission: what it asks of who comes.
        summary: one line for the document.
        body, query: what validates them; without a body nothing is read.
        answer: the model of a successful answer; None for what is not JSON.
        media: the content types of answers that are not JSON.
        refusals: the cases it may answer besides those that every route may.
        names_organization: the first id in the path is the organization that it is about.
        is_page: for people's eyes; it is not in the document, what is sent to it are forms, and its errors are pages.
        is_file: the same for everybody, so that nobody looks who asks.
    """

    method: str
    path: str
    permission: Permission
    endpoint: Endpoint
    summary: str
    body: type[BaseModel] | None = None
    query: type[BaseModel] = NoQuery
    answer: type[BaseModel] | None = None
    status: int = 200
    media: tuple[str, ...] = ()
    refusals: tuple[Case, ...] = ()
    is_page: bool = False
    is_file: bool = False
    names_organization: bool = False


Methods = Mapping[str, Route]


class Table:
    """All routes of a service, found by path."""

    def __init__(self, routes: Iterable[Route]) -> None:
        self.routes: Final = tuple(routes)
        by_path: dict[str, dict[str, Route]] = {}
        for route in self.routes:
            methods = by_path.setdefault(route.path, {})
            if route.method in methods:
                raise ValueError(f"{route.method} {route.path} is there twice")
            methods[route.method] = route
        self._paths: Paths[Methods] = Paths(by_path.items())

    def match(self, raw_path: str) -> Match[Methods] | None:
        return self._paths.match(raw_path)
