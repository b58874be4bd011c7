"""Paths: matches a request's raw path against templates, segment by segment.

Rules
-----
- The raw bytes decide, before any decoding: no empty segments, no dot segments (also encoded), no bad escapes, no
  control characters, nothing outside printable ASCII. Whatever breaks a rule matches nothing (the caller answers 404).
- A literal segment matches byte for byte; an escape in it (an encoded slash, say) matches nothing.
- An `{id}` takes exactly one segment. Its text comes decoded, an encoded slash included (`@cf%2Fmeta%2Fllama` is a
  model's name), but without control characters, backslashes and empty or dot parts; `provider_path` encodes it again,
  so that no client byte reaches a provider's path as it came.
- Query strings pass by name through an allow-list, pair by pair.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Generic, NamedTuple, TypeVar
from urllib.parse import quote, unquote_to_bytes

Route = TypeVar("Route")

_SEGMENT: Final = re.compile(r"(?:[!$&'()*+,;=:@A-Za-z0-9._~-]|%[0-9A-Fa-f]{2})+")
_TEMPLATE_ID: Final = re.compile(r"\{[a-z_]+\}")
_FORBIDDEN_IN_ID: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")
_ID_LENGTH: Final = 512
_QUERY_LENGTH: Final = 4096
_QUERY_PAIR: Final = re.compile(
    r"(?:[A-Za-z0-9_.\[\]-]|%5[BbDd])+(?:=(?:[!$'()*+,;:@/?A-Za-z0-9._~=-]|%[0-9A-Fa-f]{2})*)?"
)


class Match(NamedTuple, Generic[Route]):
    """A template that fits: its route and the decoded ids in order."""

    route: Route
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Template(Generic[Route]):
    segments: tuple[str | None, ...]
    """None stands for an id."""
    route: Route


class Paths(Generic[Route]):
    """A compiled table of templates (`/v1/models/{model}`); the first template that fits wins."""

    __slots__ = ("_literal", "_templates")

    def __init__(self, templates: Iterable[tuple[str, Route]]) -> None:
        self._literal: dict[str, Match[Route]] = {}
        self._templates: dict[int, list[_Template[Route]]] = {}
        for template, route in templates:
            self._add(template, route)

    def _add(self, template: str, route: Route) -> None:
        segments = _template_segments(template)
        if None not in segments:
            self._literal.setdefault(template, Match(route, ()))
        else:
            self._templates.setdefault(len(segments), []).append(_Template(segments, route))

    def match(self, raw_path: str) -> Match[Route] | None:
        """The route for a raw path (without its query), None where nothing fits or a rule is broken."""
        return self._literal.get(raw_path) or self._match_template(raw_path)

    def _match_template(self, raw_path: str) -> Match[Route] | None:
        if not raw_path.startswith("/"):
            return None
        segments = raw_path[1:].split("/")
        for template in self._templates.get(len(segments), ()):
            ids = _ids(template.segments, segments)
            if ids is not None:
                return Match(template.route, ids)
        return None


def provider_path(template: str, ids: Iterable[str]) -> str:
    """Fill a template's ids in order, encoded so that each stays one segment.

    Raises:
        ValueError: more or fewer ids than the template has places.
    """
    remaining = list(ids)
    if not remaining and "{" not in template:
        return template
    filled = [
        quote(remaining.pop(0), safe="") if _TEMPLATE_ID.fullmatch(part) and remaining else part
        for part in template.split("/")
    ]
    if remaining or any(_TEMPLATE_ID.fullmatch(part) for part in filled):
        raise ValueError(f"ids do not fit the template {template}")
    return "/".join(filled)


def allowed_query(raw_query: str, allowed: frozenset[str]) -> str:
    """The pairs of a query string whose names are in `allowed`, as the client wrote them, in order.

    A name may carry a suffix in brackets (`include[]`), which is not part of what is looked up. Pairs with bytes that
    do not belong into a query are dropped, as is a query beyond 4096 characters.
    """
    if not raw_query or not allowed or len(raw_query) > _QUERY_LENGTH:
        return ""
    return "&".join(pair for pair in raw_query.split("&") if _query_name(pair) in allowed)


def _query_name(pair: str) -> str | None:
    if _QUERY_PAIR.fullmatch(pair) is None:
        return None
    name = pair.partition("=")[0]
    return name.replace("%5B", "[").replace("%5b", "[").partition("[")[0]


def _template_segments(template: str) -> tuple[str | None, ...]:
    if not template.startswith("/"):
        raise ValueError(f"a template starts with a slash: {template}")
    return tuple(None if _TEMPLATE_ID.fullmatch(part) else part for part in template[1:].split("/"))


def _ids(template: tuple[str | None, ...], segments: list[str]) -> tuple[str, ...] | None:
    ids: list[str] = []
    for wanted, segment in zip(template, segments, strict=True):
        if wanted is not None:
            if wanted != segment:
                return None
            continue
        text = _id(segment)
        if text is None:
            return None
        ids.append(text)
    return tuple(ids)


def _id(segment: str) -> str | None:
    """The decoded text of one id segment, None where it is no safe id."""
    if len(segment) > _ID_LENGTH or _SEGMENT.fullmatch(segment) is None:
        return None
    try:
        text = unquote_to_bytes(segment).decode()
    except UnicodeDecodeError:
        return None
    if _FORBIDDEN_IN_ID.search(text) or not {"", ".", ".."}.isdisjoint(text.split("/")):
        return None
    return text
