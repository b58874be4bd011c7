"""Ownership: whether everything that a request mentions is its account's.

Rules
-----
- All tenants share the provider's account, so an id proves nothing. What a request mentions in its path, its query or
  its body must be owned by the account of its key; else it does not exist, in OpenAI's words for that kind, and nothing
  tells whether it is another's or nobody's.
- Everything that one request mentions must be at one provider, the one that the request goes to: under the same id
  another provider may have something else.
- Trouble with our own database is a 503, never a 404.
"""

import asyncio
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final, NamedTuple
from urllib.parse import parse_qsl
from uuid import UUID

from meterproxy.core.resource import (
    AUDIO,
    CHAT_COMPLETION,
    CONTAINER,
    CONVERSATION,
    FILE,
    ITEM,
    PROMPT,
    RESPONSE,
    SKILL,
    TUNNEL,
    VECTOR_STORE,
    VOICE,
    Resource,
    ownable,
)
from meterproxy.errors import ApiError, Case, StoreUnavailable
from meterproxy.proxy.accept import Asked
from meterproxy.proxy.endpoints import WITHIN
from meterproxy.proxy.large_body import DIRECT_BYTES
from meterproxy.proxy.mentions import SMALL_BYTES, Mention, may_mention, mentioning, mentions_of
from meterproxy.proxy.ports import Owners
from meterproxy.proxy.turns import Turns

WORDS: Final[Mapping[str, str]] = MappingProxyType(
    {
        RESPONSE: "Response with id '{}' not found.",
        CONVERSATION: "Conversation with id '{}' not found.",
        ITEM: "Item with id '{}' not found. Items are not persisted when `store` is set to false. Try again with"
        " `store` set to true, or remove this item from your input.",
        CHAT_COMPLETION: "Chat completion with id '{}' not found.",
        PROMPT: "Prompt with id '{}' not found.",
        FILE: "No such File object: {}",
        VECTOR_STORE: "Vector store with id '{}' not found.",
        CONTAINER: "Container with id '{}' not found.",
        SKILL: "Skill with id '{}' not found.",
        TUNNEL: "Tunnel with id '{}' not found.",
        AUDIO: "Audio with id '{}' not found.",
        VOICE: "Voice with id '{}' not found.",
    }
)
"""What a client hears of each kind. Source: OpenAI's answers, as far as they are known."""

_PREVIOUS: Final = "previous_response_id"
_PREVIOUS_WORDS: Final = "Previous response with id '{}' not found."
_ATTRIBUTING: Final = (CONVERSATION, RESPONSE)
_SHOWN: Final = 80

LOOKED_UP_AT_ONCE: Final = 64
"""Ids of one request that are looked up at the same time: after a restart, a long history is all unknown."""


class Owned(NamedTuple):
    """What a request mentions, all of it its account's.

    `provider` is the name of where it is, None where nothing is mentioned; `conversation` attributes the request.
    """

    resources: tuple[Resource, ...] = ()
    provider: str | None = None
    conversation: str | None = None


NOTHING: Final = Owned()


class Ownership:
    """Checks requests before they are routed."""

    def __init__(self, owners: Owners, turns: Turns) -> None:
        self._owners = owners
        self._turns = turns

    async def check(self, asked: Asked, ids: tuple[str, ...], query: str, account_id: UUID) -> Owned:
        """Find everything that a request mentions.

        Raises:
            ApiError: RESOURCE_NOT_FOUND, UNAVAILABLE; MALFORMED where the body cannot be read in one way only.
        """
        in_body = await self._in_body(asked) if len(asked.members.document) > SMALL_BYTES else _in_body(asked)
        mentions = [*_in_path(asked, ids), *_in_query(asked, query), *in_body]
        return await self._find_all(mentions, account_id) if mentions else NOTHING

    async def _in_body(self, asked: Asked) -> list[Mention]:
        """What a large body mentions, found in steps."""
        endpoint = asked.endpoint
        if not in_body(asked):
            return []
        return await self._turns.take(mentioning(asked.members, endpoint.mentions, endpoint.marks))

    async def _find_all(self, mentions: list[Mention], account_id: UUID) -> Owned:
        """What memory knows decides first; the rest is looked up, ever more at a time, up to the first miss."""
        found = [self._known(account_id, mention) for mention in mentions]
        cold = [at for at, resource in enumerate(found) if resource is None]
        size = 1
        while cold:
            batch, cold = cold[:size], cold[size:]
            size = min(size * 2, LOOKED_UP_AT_ONCE)
            looked_up = await asyncio.gather(*(self._find(account_id, mentions[at]) for at in batch))
            for at, resource in zip(batch, looked_up, strict=True):
                found[at] = resource
        resources = [resource for resource in found if resource is not None]
        for mention, resource in zip(mentions, resources, strict=True):
            if resource.provider != resources[0].provider:
                raise not_found(mention)
        return Owned(tuple(resources), resources[0].provider, _conversation(resources))

    def _known(self, account_id: UUID, mention: Mention) -> Resource | None:
        """The resource if memory has it, None where only a look-up can tell. Raises RESOURCE_NOT_FOUND."""
        known = self._owners.known(account_id, mention.kind, mention.id) if ownable(mention.id) else False
        if known is False:
            raise not_found(mention)
        return None if known is True else known

    async def _find(self, account_id: UUID, mention: Mention) -> Resource:
        try:
            resource = await self._owners.find(account_id, mention.kind, mention.id)
        except StoreUnavailable:
            message = "What the request mentions cannot be looked up right now. Please try again."
            raise ApiError(Case.UNAVAILABLE, message) from None
        if resource is None:
            raise not_found(mention)
        return resource


def not_found(mention: Mention) -> ApiError:
    """What a client hears of what is not its account's."""
    words = _PREVIOUS_WORDS if mention.param == _PREVIOUS else WORDS[mention.kind]
    shown = "".join(letter for letter in mention.id[:_SHOWN] if letter.isprintable())
    return ApiError(Case.RESOURCE_NOT_FOUND, words.format(shown), param=mention.param or None)


def at_another_provider(asked: Asked, owned: Owned) -> ApiError:
    """What a client hears whose request goes to another provider than what it mentions is at."""
    first = owned.resources[0]
    param = next(iter(mention.param for mention in _in_body(asked) if mention.id == first.id), "")
    return not_found(Mention(first.kind, first.id, param))


def in_body(asked: Asked) -> bool:
    """Whether a request's body may mention anything; cheap, and yes where there is doubt."""
    document = asked.members.document
    return len(document) > DIRECT_BYTES or may_mention(document, asked.endpoint.marks)


def _in_body(asked: Asked) -> list[Mention]:
    endpoint = asked.endpoint
    return mentions_of(asked.members, endpoint.mentions, endpoint.marks) if in_body(asked) else []


def _in_path(asked: Asked, ids: tuple[str, ...]) -> Iterator[Mention]:
    for kind, id_ in zip(asked.endpoint.ids, ids, strict=True):
        if kind != WITHIN:
            yield Mention(kind, id_, "")


def _in_query(asked: Asked, query: str) -> Iterator[Mention]:
    cursor = asked.endpoint.cursor
    if cursor is not None:
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name.partition("[")[0] == "after":
                yield Mention(cursor, value, "after")


def _conversation(resources: list[Resource]) -> str | None:
    """The conversation that a request says it goes on with, or else the response."""
    for kind in _ATTRIBUTING:
        for resource in resources:
            if resource.kind == kind:
                return resource.id
    return None
