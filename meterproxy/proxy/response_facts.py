"""Response facts: what the body of a responses request says about the size of its exchange.

Rules
-----
- What is not in the body counts as the model's whole context: what `previous_response_id`, `conversation` and `prompt`
  stand for, files, and items that a provider completes from what it has stored.
- A tool is either run by the client (its calls end the answer), or by the provider and bounded by its row in
  `core.bound.HOSTED_TOOLS`, or refused: what it costs is in no price that we know.
- Hosted tools need a maximum of calls; where the client names none, `TOOL_CALLS_DEFAULT` is written into the request.
- Items that cannot be understood count as the whole context, tools that cannot be are refused.
"""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec

from meterproxy.core.bound import RequestFacts
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.body import Members, without_surrogates

TOOL_CALLS_DEFAULT: Final = 8
"""How often the provider may run tools in one response where the request does not say."""
TOOL_CALLS_MAXIMUM: Final = 1024
SEPARATORS_MAXIMUM: Final = 50_000
"""The most commas outside of strings in `input`; an item has four or five."""
UNCOUNTED_BYTES: Final = 1 << 16
AUDIO_UNBOUNDED: Final = 2**31
"""Audio of unknown length: all that the context holds may be audio."""
COMPACTED_PASSES: Final = 2
"""A context that may be compacted on the way is read and written once more each turn."""

CLIENT_TOOLS: Final = frozenset(
    "function custom namespace computer computer_use_preview local_shell apply_patch".split()
)
"""Tools that the client runs; what they cost the provider is the tokens of their calls."""

_PLAIN_PARTS: Final = frozenset({"", "input_text", "output_text", "text", "refusal", "summary_text", "reasoning_text"})
_PICTURES: Final = frozenset({"input_image", "computer_screenshot"})
_WHOLE_ITEMS: Final = frozenset(
    "message function_call function_call_output custom_tool_call custom_tool_call_output local_shell_call"
    " local_shell_call_output shell_call shell_call_output apply_patch_call apply_patch_call_output"
    " compaction compaction_trigger additional_tools tool_search_call tool_search_output mcp_list_tools".split()
)
"""Types of items that bring all they mean along, whatever their id."""
_BRING_TOOLS: Final = frozenset({"additional_tools", "tool_search_output"})


class _Part(msgspec.Struct):
    type: str | None = ""
    detail: str | None = None
    image_url: msgspec.Raw = msgspec.Raw()
    file_id: Any = None
    file_url: Any = None


class _Item(msgspec.Struct):
    type: str | None = ""
    id: Any = None
    content: str | list[_Part] | None = None
    output: str | list[_Part] | _Part | None = None
    encrypted_content: Any = None
    result: msgspec.Raw = msgspec.Raw()
    tools: msgspec.Raw = msgspec.Raw()


class _Environment(msgspec.Struct):
    type: Any = None


class _Tool(msgspec.Struct):
    type: str = ""
    environment: _Environment | None = None
    execution: Any = None


class _Contents(NamedTuple):
    """What `input` holds besides text; `foreign_bytes` are those of the body that are no text."""

    foreign_bytes: int = 0
    picture_details: tuple[str, ...] = ()
    outside: bool = False
    tools: tuple[bytes, ...] = ()
    audio: bool = False


_ITEMS: Final = msgspec.json.Decoder(list[_Item])
_TOOLS: Final = msgspec.json.Decoder(list[_Tool])
_ABSENT: Final = (b"", b"null")


def read_response_facts(members: Members, outside: tuple[str, ...]) -> RequestFacts:
    """Read what the bound of a response is computed from; `outside` names members that stand for input elsewhere.

    Raises:
        ApiError: MALFORMED where a number is not one, or a tool cannot be bounded.
    """
    contents = _contents(members.raw("input") or b"", members)
    hosted = hosted_tools(members, contents.tools)
    from_prompt = not members.absent("prompt")
    if from_prompt:
        hosted = ("file_search", "mcp", "web_search")
    return RequestFacts(
        text_bytes=len(members.body) - contents.foreign_bytes,
        picture_details=contents.picture_details,
        audio_tokens=AUDIO_UNBOUNDED if contents.audio else 0,
        outside=contents.outside or not all(map(members.absent, outside)),
        own_maximum=members.integer("max_output_tokens"),
        service_tier=members.string("service_tier"),
        hosted_tools=hosted,
        tool_calls=_tool_calls(members),
        passes=1 if members.absent("context_management") else COMPACTED_PASSES,
    )


def hosted_tools(members: Members, more: tuple[bytes, ...] = ()) -> tuple[str, ...]:
    """The tools of a request that the provider runs, by their names in `core.bound.HOSTED_TOOLS`, in order.

    Raises:
        ApiError: MALFORMED for one that cannot be bounded.
    """
    raws = (members.raw("tools") or b"", *more)
    return tuple(sorted({name for raw in raws if raw not in _ABSENT for name in _hosted(raw)}))


def tool_calls_edit(members: Members) -> dict[str, bytes]:
    """What must be written into a request so that its hosted tools have a maximum of calls."""
    contents = _contents(members.raw("input") or b"", members)
    if not members.absent("max_tool_calls") or not (
        hosted_tools(members, contents.tools) or not members.absent("prompt")
    ):
        return {}
    return {"max_tool_calls": b"%d" % TOOL_CALLS_DEFAULT}


def _tool_calls(members: Members) -> int:
    own = members.integer("max_tool_calls")
    if own is not None and own > TOOL_CALLS_MAXIMUM:
        message = f"'max_tool_calls' must be at most {TOOL_CALLS_MAXIMUM}."
        raise ApiError(Case.MALFORMED, message, param="max_tool_calls")
    return TOOL_CALLS_DEFAULT if own is None else own


def _hosted(raw: bytes) -> Iterator[str]:
    try:
        tools = _TOOLS.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            tools = _TOOLS.decode(without_surrogates(raw))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise ApiError(Case.MALFORMED, "'tools' must be a list of tools.", param="tools") from None
    for tool in tools:
        name = _hosted_name(tool)
        if name is not None:
            yield name


def _hosted_name(tool: _Tool) -> str | None:
    """A tool's name in `core.bound.HOSTED_TOOLS`, None where the client runs it."""
    kind = tool.type
    if kind in CLIENT_TOOLS or (kind == "shell" and tool.environment is not None and tool.environment.type == "local"):
        return None
    if kind.startswith("web_search"):
        return "web_search"
    if kind == "tool_search":
        return None if tool.execution == "client" else kind
    if kind in {"file_search", "mcp"}:
        return kind
    shown = "".join(letter for letter in kind[:40] if letter.isprintable())
    message = f"The tool '{shown}' cannot be used: what it may cost cannot be bounded."
    raise ApiError(Case.MALFORMED, message, param="tools")


def _contents(raw: bytes, members: Members) -> _Contents:
    if not raw.startswith(b"["):
        return _Contents()
    length = members.length
    if len(raw) > UNCOUNTED_BYTES:
        _check_items(members, raw)
    try:
        items = _ITEMS.decode(raw)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        try:
            items = _ITEMS.decode(without_surrogates(raw))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return _Contents(outside=True, tools=_unread_tools(raw), audio=True)
    parts = [part for item in items for part in _parts(item)]
    pictures = [part for part in parts if part.type in _PICTURES]
    results = [item.result for item in items if bytes(item.result) not in _ABSENT]
    return _Contents(
        foreign_bytes=sum(length(part.image_url) for part in pictures) + sum(map(length, results)),
        picture_details=(*map(_detail, pictures), *("original" for _ in results)),
        outside=any(map(_part_refers, parts)) or any(map(_item_refers, items)),
        tools=tuple(
            bytes(item.tools) for item in items if item.type in _BRING_TOOLS and bytes(item.tools) not in _ABSENT
        ),
        audio=any(part.type == "input_audio" for part in parts),
    )


def _unread_tools(raw: bytes) -> tuple[bytes, ...]:
    """Items that nobody here can read might bring tools; where the word may be there they are not let through."""
    if b'"tools"' in raw or b"\\u00" in raw:
        raise ApiError(Case.MALFORMED, "'input' has items that cannot be read.", param="input")
    return ()


def _check_items(members: Members, raw: bytes) -> None:
    """Refuse items of which too many objects would be built."""
    if members.dense("input", raw, SEPARATORS_MAXIMUM):
        raise ApiError(Case.MALFORMED, "'input' has too many parts.", param="input")


def _parts(item: _Item) -> Iterator[_Part]:
    for value in (item.content, item.output):
        if isinstance(value, list):
            yield from value
        elif isinstance(value, _Part):
            yield value


def _detail(part: _Part) -> str:
    return "high" if part.detail not in {"low", "original"} else str(part.detail)


def _part_refers(part: _Part) -> bool:
    """Whether a part may stand for input that is not in the body."""
    if part.type in _PICTURES:
        return part.file_id is not None
    return part.type not in _PLAIN_PARTS


def _item_refers(item: _Item) -> bool:
    """Whether an item may be completed from what the provider has stored."""
    if item.type in _WHOLE_ITEMS or (item.type == "" and item.content is not None):
        return False
    if item.type == "reasoning":
        return not isinstance(item.encrypted_content, str)
    if item.type == "image_generation_call":
        return bytes(item.result) in _ABSENT
    return True
