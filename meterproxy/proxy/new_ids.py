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

from meterproxy.core.resource import CONTAINER, ITEM
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


_ANSWER: Final = msgspec.json.Decoder(_Answer)


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


def _read(body: bytes) -> _Answer | None:
    for readable in (body, without_surrogates(body)):
        try:
            return _ANSWER.decode(readable)
        except UNREADABLE:
            continue
    return None
