"""Responses: what the provider answers on `/v1/responses`, worked out once, as an object and its items.

Pure, as `answers` is: ids, time and what is cached come in. Input becomes the messages that a chat would have, so that
tokens are counted in one way; the text is prose by seed, or a call of one of the tools that were offered.

Rules
-----
- `input_tokens` counts what every turn has read: a hosted tool makes the model read all again, and what it found.
- `max_output_tokens` bounds all that is generated, reasoning included; `max_tool_calls` the calls of hosted tools.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import orjson

from meterproxy.simulator.answers import Circumstances
from meterproxy.simulator.instance import instance_of
from meterproxy.simulator.models import Model
from meterproxy.simulator.prompt import Prompt, chat_prompt
from meterproxy.simulator.refusal import Refusal
from meterproxy.simulator.text import Generated, prose, seed_of, tokenized, words
from meterproxy.simulator.usage import ABSENT, told_usage

Document = Mapping[str, Any]
Item = dict[str, Any]

_WANTED: Final = range(16, 64)
_FOUND_TOKENS: Final = 400
"""What one call of a hosted tool adds to what the model reads."""
_COMPACTED_TOKENS: Final = 40
_REASONING_BY_EFFORT: Final[Mapping[str | None, int]] = {
    "none": 0,
    "minimal": 0,
    "low": 64,
    None: 128,
    "medium": 128,
    "high": 256,
}
_TIERS: Final[Mapping[str | None, str]] = {"flex": "flex", "priority": "priority", "fast": "priority"}
_TEXT_PARTS: Final = frozenset({"input_text", "output_text", "text"})
_CLIENT_TOOLS: Final = frozenset({"function", "custom"})
_ECHOED: Final[Mapping[str, Any]] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "reasoning": {"effort": None, "summary": None},
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


@dataclass(frozen=True, slots=True)
class Made:
    """A response as it ends: its object, and the text of each item as a stream tells it."""

    document: dict[str, Any]
    pieces: Mapping[str, tuple[str, ...]]
    tokens: int


def input_items(document: Document, prefix: str) -> list[Item]:
    """The request's input as items with ids."""
    value = document.get("input") or []
    if isinstance(value, str):
        value = [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": value}]}]
    return [
        {"id": f"{_letters(item)}_{prefix}{at:04x}", "type": item.get("type") or "message", "status": "completed"}
        | {name: member for name, member in item.items() if member is not None}
        for at, item in enumerate(value)
        if isinstance(item, dict)
    ]


def _letters(item: Item) -> str:
    return {"function_call": "fc", "function_call_output": "fco", "reasoning": "rs"}.get(item.get("type", ""), "msg")


def prompt_of(document: Document, items: list[Item], model: Model) -> Prompt:
    """Count what the model reads in one turn."""
    messages = [*_instructions(document), *(_message(item) for item in items)] or [{"role": "user", "content": ""}]
    return chat_prompt({"messages": messages, "tools": document.get("tools")}, model)


def _instructions(document: Document) -> Iterator[Item]:
    if document.get("instructions"):
        yield {"role": "system", "content": document["instructions"]}


def _message(item: Item) -> Item:
    content = item.get("content")
    if isinstance(content, list):
        content = [_part(part) for part in content]
    if content is None:
        texts = [item.get(name) for name in ("name", "arguments", "output", "input")]
        content = " ".join(text for text in texts if isinstance(text, str))
    return {"role": item.get("role") or "assistant", "content": content}


def _part(part: Item) -> Item:
    if part.get("type") in _TEXT_PARTS:
        return {"type": "text", "text": part.get("text") or ""}
    if part.get("type") == "input_image":
        return {"type": "image_url", "image_url": {"url": part.get("image_url"), "detail": part.get("detail")}}
    return {"type": "file" if part.get("type") == "input_file" else "text"}


def make(document: Document, items: list[Item], model: Model, around: Circumstances) -> Made:
    """Answer a request whose input and history are these items.

    Raises:
        Refusal: the model's context or maximum is exceeded.
    """
    prompt = prompt_of(document, items, model)
    named = document.get("max_output_tokens")
    _check(model, prompt.tokens, named)
    rest = min(named or model.max_output_tokens, model.context_tokens - prompt.tokens)
    reasoning = min(_reasoning(document, model, around), rest)
    output: list[Item] = [_reasoning_item(around)] if model.reasoning else []
    calls = list(_hosted_calls(document, around))
    output += calls
    pieces: dict[str, tuple[str, ...]] = {}
    made, text = _spoken(document, items, model, rest - reasoning, around)
    output.append(made)
    pieces[made["id"]] = text.pieces
    written = reasoning + text.tokens
    usage = _usage(model, prompt.tokens, len(calls), written, reasoning, around)
    length = text.finish == "length"
    head = _head(document, model, around)
    ended = {
        "status": "incomplete" if length else "completed",
        "completed_at": None if length else around.created,
        "incomplete_details": {"reason": "max_output_tokens"} if length else None,
        "output": output,
        "tool_usage": _tool_usage(calls),
    }
    if around.faults.failed:
        error = {"code": "server_error", "message": "The server had an error while processing your request."}
        return Made({**begun(head, "failed"), "error": error}, {}, 0)
    told = told_usage(usage, around.faults)
    return Made({**head, **ended, **({} if told is ABSENT else {"usage": told})}, pieces, written)


def compaction(document: Document, items: list[Item], model: Model, around: Circumstances) -> dict[str, Any]:
    """What is left of these items when they are compacted: one item that nobody can read."""
    prompt = prompt_of(document, items, model)
    item = {"id": f"cmp_{_own(around)}", "type": "compaction", "encrypted_content": "gAAAAA" + _own(around)}
    made = {"id": around.id, "object": "response.compaction", "created_at": around.created, "output": [item]}
    told = told_usage(_usage(model, prompt.tokens, 0, _COMPACTED_TOKENS, 0, around), around.faults)
    return made if told is ABSENT else {**made, "usage": told}


def _check(model: Model, tokens: int, named: int | None) -> None:
    if named is not None and named > model.max_output_tokens:
        raise Refusal(
            400,
            f"Invalid 'max_output_tokens': integer above maximum value. Expected a value <= {model.max_output_tokens},"
            f" but got {named} instead.",
            param="max_output_tokens",
            code="integer_above_max_value",
        )
    if tokens > model.context_tokens:
        message = "Your input exceeds the context window of this model. Please adjust your input and try again."
        raise Refusal(400, message, param="input", code="context_length_exceeded")


def begun(document: dict[str, Any], status: str) -> dict[str, Any]:
    """A response's object before it has ended."""
    open_: dict[str, Any] = {
        "status": status,
        "completed_at": None,
        "incomplete_details": None,
        "output": [],
        "usage": None,
    }
    return {**document, **open_, "tool_usage": _tool_usage([])}


def _head(document: Document, model: Model, around: Circumstances) -> dict[str, Any]:
    echoed = {name: document.get(name, usual) for name, usual in _ECHOED.items()}
    echoed |= {name: usual for name, usual in _ECHOED.items() if echoed[name] is None}
    conversation = document.get("conversation")
    if conversation is not None:
        echoed["conversation"] = {"id": conversation if isinstance(conversation, str) else conversation.get("id")}
    return {
        "id": around.id,
        "object": "response",
        "created_at": around.created,
        "error": None,
        "model": around.faults.served_model or model.served_name,
        "service_tier": around.faults.service_tier or _TIERS.get(document.get("service_tier"), "default"),
        **echoed,
    }


def _reasoning(document: Document, model: Model, around: Circumstances) -> int:
    if around.faults.reasoning is not None:
        return around.faults.reasoning
    return _REASONING_BY_EFFORT.get((document.get("reasoning") or {}).get("effort"), 0) if model.reasoning else 0


def _reasoning_item(around: Circumstances) -> Item:
    return {"id": f"rs_{_own(around)}", "type": "reasoning", "summary": []}


def _own(around: Circumstances) -> str:
    return around.id.partition("_")[2]


def _hosted_calls(document: Document, around: Circumstances) -> Iterator[Item]:
    """Calls of the hosted tools in turn, as many as were asked for and are allowed."""
    hosted = [tool for tool in document.get("tools") or () if tool.get("type") not in _CLIENT_TOOLS]
    if not hosted or document.get("tool_choice") == "none":
        return
    allowed = document.get("max_tool_calls")
    calls = 1 if around.faults.calls is None else around.faults.calls
    for at in range(calls if allowed is None else min(calls, allowed)):
        kind = str(hosted[at % len(hosted)].get("type"))
        yield _hosted_call(kind, hosted[at % len(hosted)], f"{_own(around)}{at:02x}")


def _hosted_call(kind: str, tool: Document, own: str) -> Item:
    if kind.startswith("web_search"):
        action = {"type": "search", "query": "proxies", "queries": ["proxies"]}
        return {"id": f"ws_{own}", "type": "web_search_call", "status": "completed", "action": action}
    if kind == "file_search":
        return {"id": f"fs_{own}", "type": "file_search_call", "status": "completed", "queries": ["proxies"]}
    label = tool.get("server_label") or "server"
    return {
        "id": f"mcp_{own}",
        "type": "mcp_call",
        "status": "completed",
        "server_label": label,
        "name": "look",
        "arguments": "{}",
        "output": "found",
        "error": None,
    }


def _tool_usage(calls: list[Item]) -> dict[str, Any]:
    pictures = {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}
    details = {"input_tokens_details": {"image_tokens": 0, "text_tokens": 0}}
    searches = sum(call["type"] == "web_search_call" for call in calls)
    return {"image_gen": {**pictures, **details}, "web_search": {"num_requests": searches}}


def _spoken(
    document: Document, items: list[Item], model: Model, room: int, around: Circumstances
) -> tuple[Item, Generated]:
    """The item that an answer ends in: a call of one of the client's tools, or a message."""
    offered = [tool for tool in document.get("tools") or () if tool.get("type") in _CLIENT_TOOLS]
    answered = bool(items) and str(items[-1].get("type")).endswith("_output")
    choice = document.get("tool_choice") or "auto"
    if offered and choice != "none" and not (choice == "auto" and answered):
        return _call(offered[0], model, room, around)
    seed = seed_of(around.seed, model.id, [item.get("content") for item in items])
    wanted = around.faults.tokens if around.faults.tokens is not None else _WANTED[seed % len(_WANTED)]
    shape = (document.get("text") or {}).get("format") or {}
    if shape.get("type") == "json_schema":
        value = instance_of(shape.get("schema") or {}, words(seed))
        text = tokenized(orjson.dumps(value).decode(), room, model.encoding)
    else:
        text = prose(seed, wanted, wanted if around.faults.ignore_maximum else room, (), model.encoding)
    content = [{"type": "output_text", "text": text.text, "annotations": [], "logprobs": []}]
    status = "incomplete" if text.finish == "length" else "completed"
    item = {"id": f"msg_{_own(around)}", "type": "message", "status": status, "role": "assistant", "content": content}
    return item, text


def _call(tool: Document, model: Model, room: int, around: Circumstances) -> tuple[Item, Generated]:
    seed = seed_of(around.seed, tool)
    custom = tool.get("type") == "custom"
    if custom:
        written = "".join(piece for piece, _ in zip(words(seed), range(6), strict=False))
    else:
        written = orjson.dumps(instance_of(tool.get("parameters") or {}, words(seed))).decode()
    text = tokenized(written, room, model.encoding)
    kind, member = ("custom_tool_call", "input") if custom else ("function_call", "arguments")
    item = {
        "id": f"{'ctc' if custom else 'fc'}_{_own(around)}",
        "type": kind,
        "status": "completed",
        "call_id": f"call_{seed:024x}",
        "name": tool.get("name"),
        member: text.text,
    }
    return item, text


def _usage(
    model: Model, prompt_tokens: int, calls: int, written: int, reasoning: int, around: Circumstances
) -> dict[str, Any]:
    cached = around.cached if around.faults.cached is None else around.faults.cached
    read = sum(min(prompt_tokens + _FOUND_TOKENS * turn, model.context_tokens) for turn in range(calls + 1))
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": cached, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": reasoning},
        "total_tokens": read + written,
    }
