"""New ids: what an answer brings into the world that its client may mention later.

Rules
-----
- Items of a response are found whether the response is stored or not: clients send them back by their ids, and what
  has an id must have an owner.
- What an answer only repeats of its request (`previous_response_id`, `conversation`) is owned already.
- What cannot be read brings nothing: no client can read it either.
"""

from collections.abc import Iterable, Iterator
from typing import Any, Final, NamedTuple

import msgspec

from meterproxy.core.resource import AUDIO, CONTAINER, ITEM
from meterproxy.proxy.body import without_surrogates
from meterproxy.proxy.response_reading import UNREADABLE, Item, items_of

OWN: Final = ""
"""Stands for the kind that the endpoint's row says of an answer's own id."""


class Found(NamedTuple):
    """An id in an answer, and the kind of what it names."""

    kind: str
    id: str


class _Answer(msgspec.Struct):
    id: Any = None
    output: msgspec.Raw = msgspec.Raw()
    data: msgspec.Raw = msgspec.Raw()


class _Audio(msgspec.Struct):
    id: Any = None


class _Message(msgspec.Struct):
    audio: _Audio | None = None


class _Choice(msgspec.Struct):
    message: _Message | None = None
    delta: _Message | None = None


class _Chat(msgspec.Struct):
    choices: list[_Choice] | None = None


_ANSWER: Final = msgspec.json.Decoder(_Answer)
_CHAT: Final = msgspec.json.Decoder(_Chat)


def ids_in_answer(body: bytes, *, own: bool, items: str | None) -> list[Found]:
    """The ids in a plain answer: its own, if that is wanted, and those of the items in this member, if one is named."""
    answer = _read(body)
    if answer is None:
        return []
    found = [Found(OWN, answer.id)] if own and isinstance(answer.id, str) else []
    if items is not None:
        found += ids_of_items(items_of(bytes(answer.output if items == "output" else answer.data)))
    return found


def ids_of_items(items: Iterable[Item]) -> Iterator[Found]:
    """The ids of items, and of the containers that they ran in."""
    for item in items:
        if isinstance(item.id, str):
            yield Found(ITEM, item.id)
        if isinstance(item.container_id, str):
            yield Found(CONTAINER, item.container_id)


def audio_ids(body: bytes) -> list[Found]:
    """The ids of the audio in a chat answer, or in one event of its stream."""
    try:
        choices = _CHAT.decode(body).choices or []
    except UNREADABLE:
        return []
    messages = [message for choice in choices for message in (choice.message, choice.delta) if message is not None]
    return [
        Found(AUDIO, message.audio.id)
        for message in messages
        if message.audio is not None and isinstance(message.audio.id, str)
    ]


def _read(body: bytes) -> _Answer | None:
    for readable in (body, without_surrogates(body)):
        try:
            return _ANSWER.decode(readable)
        except UNREADABLE:
            continue
    return None
