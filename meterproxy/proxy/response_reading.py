"""Response reading: what a response object says it used, called, searched, and whether it has ended.

Rules
-----
- Nothing here raises: what cannot be read says nothing, and the caller counts.
- Tools that the provider ran show as items `…_call`; `usage` does not name them. Searches of the web are counted by
  `tool_usage` where the answer has it, else by its items; opening a page it found is no search.
- A response that is queued or in progress goes on in the background: its usage comes later.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import msgspec

from meterproxy.core.usage import MAX_COUNT

RUNNING: Final = frozenset({"queued", "in_progress"})

_NAMED_CALLS: Final = frozenset({"function_call", "custom_tool_call", "mcp_call"})
_CALL: Final = "_call"
_SEARCH: Final = "search"


class _Action(msgspec.Struct):
    type: Any = _SEARCH


class Item(msgspec.Struct):
    """One item of an answer's output, as far as it matters here."""

    type: Any = None
    id: Any = None
    name: Any = None
    action: msgspec.Raw = msgspec.Raw()
    container_id: Any = None


class _Requests(msgspec.Struct):
    num_requests: Any = None


class _ToolUsage(msgspec.Struct):
    web_search: _Requests | None = None


class Response(msgspec.Struct):
    """A response object, as far as it matters here."""

    id: Any = None
    model: Any = None
    service_tier: Any = None
    status: Any = None
    background: Any = None
    usage: msgspec.Raw = msgspec.Raw()
    error: msgspec.Raw = msgspec.Raw()
    output: msgspec.Raw = msgspec.Raw()
    tool_usage: msgspec.Raw = msgspec.Raw()

    @property
    def running(self) -> bool:
        """Whether it is still being worked on, as far as it says."""
        return isinstance(self.status, str) and self.status in RUNNING


class Work(NamedTuple):
    """What a response had done for it: the names of the tools called, and searches."""

    tools: list[str]
    web_searches: int = 0
    file_searches: int = 0


_ACTION: Final = msgspec.json.Decoder(_Action)
_ITEMS: Final = msgspec.json.Decoder(list[Item])
_TOOL_USAGE: Final = msgspec.json.Decoder(_ToolUsage)
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def items_of(output: bytes) -> list[Item]:
    """The items of an answer's list, none where it cannot be read."""
    try:
        return _ITEMS.decode(output)
    except UNREADABLE:
        return []


def work_of(items: Iterable[Item], tool_usage: bytes = b"") -> Work:
    """What these items show to have been called and searched."""
    tools: list[str] = []
    counted: Counter[str] = Counter()
    for item in items:
        kind = item.type
        if not isinstance(kind, str) or not kind.endswith(_CALL):
            continue
        if kind in _NAMED_CALLS:
            tools += [item.name] if isinstance(item.name, str) else []
            continue
        tools.append(kind.removesuffix(_CALL))
        counted[kind] += kind != "web_search_call" or _searches(item)
    told = _told_searches(tool_usage)
    web_searches = counted["web_search_call"] if told is None else told
    return Work(tools, web_searches, counted["file_search_call"])


def _searches(item: Item) -> bool:
    """Whether a call of the web search was a search, as far as it says."""
    try:
        return bool(_ACTION.decode(item.action).type == _SEARCH)
    except UNREADABLE:
        return True


def _told_searches(tool_usage: bytes) -> int | None:
    try:
        told = _TOOL_USAGE.decode(tool_usage).web_search
    except UNREADABLE:
        return None
    count = None if told is None else told.num_requests
    return count if type(count) is int and 0 <= count <= MAX_COUNT else None
