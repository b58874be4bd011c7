"""Prompts: how many tokens a request's input is, by kind, and how much of it the provider remembers.

Text is counted with the model's own vocabulary and OpenAI's overhead (3 tokens a message, 1 for a name, 3 that prime
the answer; cookbook "How to count tokens with tiktoken"). Pictures cost 85 tokens in low detail and else the 765 of
a 1024 × 1024 picture; audio 10 tokens a second of 24 kHz PCM16; tools count as their compact JSON.

Caching follows OpenAI's guide: prompts of at least 1024 tokens, in steps of 128, the longest prefix seen before.
"""

import hashlib
import json
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from meterproxy.simulator.models import Model
from meterproxy.simulator.refusal import Refusal
from meterproxy.simulator.request import wrong_type
from meterproxy.simulator.vocabulary import vocabulary

MESSAGE_TOKENS: Final = 3
NAME_TOKENS: Final = 1
PRIMING_TOKENS: Final = 3
_IMAGE_TOKENS: Final = {"low": 85}
_IMAGE_TOKENS_FULL: Final = 765
_AUDIO_BYTES_PER_TOKEN: Final = 4_800
_CACHED_LEAST: Final = 1_024
_CACHED_STEP: Final = 128
_CACHED_PREFIXES: Final = 100_000


@dataclass(slots=True)
class Prompt:
    """A prompt's tokens: text as ids (for the cache), pictures and audio as numbers."""

    ids: list[int]
    overhead: int = 0
    images: int = 0
    audio: int = 0

    @property
    def tokens(self) -> int:
        return len(self.ids) + self.overhead + self.images + self.audio


def chat_prompt(document: Mapping[str, Any], model: Model) -> Prompt:
    """Count the messages, tools and formats of a chat request.

    Raises:
        Refusal: messages that are not what they should be.
    """
    encode = vocabulary(model.encoding).encode_ordinary
    if not document["messages"]:
        raise Refusal(
            400,
            "Invalid 'messages': empty array. Expected an array with minimum length 1, but got an empty array instead.",
            param="messages",
            code="empty_array",
        )
    prompt = Prompt([], overhead=PRIMING_TOKENS)
    for at, message in enumerate(document["messages"]):
        if not isinstance(message, dict):
            raise wrong_type(f"messages[{at}]", (dict,), message)
        if not isinstance(message.get("role"), str):
            name = f"messages[{at}].role"
            raise Refusal(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
        prompt.overhead += MESSAGE_TOKENS + (NAME_TOKENS if message.get("name") else 0)
        for text in _message_texts(message):
            prompt.ids.extend(encode(text))
        _add_parts(prompt, message)
    for name in ("tools", "functions", "response_format"):
        if document.get(name):
            prompt.ids.extend(encode(json.dumps(document[name], separators=(",", ":"))))
    return prompt


def _message_texts(message: Mapping[str, Any]) -> Iterator[str]:
    yield message["role"]
    if isinstance(message.get("name"), str):
        yield message["name"]
    content = message.get("content")
    if isinstance(content, str):
        yield content
    elif isinstance(content, list):
        yield from (part["text"] for part in content if isinstance(part, dict) and isinstance(part.get("text"), str))
    for call in message.get("tool_calls") or ():
        function = call.get("function") or call.get("custom") or {}
        yield from (str(function[name]) for name in ("name", "arguments", "input") if name in function)


def _add_parts(prompt: Prompt, message: Mapping[str, Any]) -> None:
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        match part:
            case {"type": "image_url", "image_url": {"detail": detail}}:
                prompt.images += _IMAGE_TOKENS.get(detail, _IMAGE_TOKENS_FULL)
            case {"type": "image_url"}:
                prompt.images += _IMAGE_TOKENS_FULL
            case {"type": "input_audio", "input_audio": {"data": str(data)}}:
                prompt.audio += max(1, len(data) * 3 // 4 // _AUDIO_BYTES_PER_TOKEN)
            case {"type": "file"}:
                prompt.images += _IMAGE_TOKENS_FULL


def text_prompts(value: str | list[Any], model: Model, param: str) -> list[list[int]]:
    """Read `prompt` or `input`: one text, many, one array of tokens, or many of them; each as its tokens.

    Raises:
        Refusal: empty, or made of anything else.
    """
    encode = vocabulary(model.encoding).encode_ordinary
    items = [value] if isinstance(value, str) or (value and isinstance(value[0], int)) else value
    if not items:
        raise Refusal(400, f"Invalid '{param}': input cannot be an empty array.", param=param, code="empty_array")
    prompts: list[list[int]] = []
    for item in items:
        if isinstance(item, str):
            prompts.append(encode(item))
        elif isinstance(item, list) and all(type(token) is int for token in item):
            prompts.append(item)
        else:
            raise Refusal(400, f"'$.{param}' is invalid. Please check the API reference.", param=param)
    return prompts


class PromptCache:
    """The prefixes a provider has seen, by model; forgets all of them when it knows too many."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def clear(self) -> None:
        self._seen.clear()

    def read(self, model: Model, prompt: Prompt) -> int:
        """How many tokens of the prompt were cached; from now on all of its prefixes are."""
        if prompt.tokens < _CACHED_LEAST:
            return 0
        cached, known = 0, True
        prefix = hashlib.sha256(model.id.encode())
        ids = array("I", prompt.ids)
        if len(self._seen) > _CACHED_PREFIXES:
            self._seen.clear()
        for end in range(_CACHED_STEP, len(ids) + 1, _CACHED_STEP):
            prefix.update(ids[end - _CACHED_STEP : end].tobytes())
            if end >= _CACHED_LEAST:
                digest = prefix.digest()
                known = known and digest in self._seen
                cached = end if known else cached
                self._seen.add(digest)
        return cached
