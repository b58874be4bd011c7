"""Resources: what a tenant makes at a provider and may mention later by its id."""

from typing import Final
from uuid import UUID

import msgspec

RESPONSE: Final = "response"
CONVERSATION: Final = "conversation"
ITEM: Final = "item"
CHAT_COMPLETION: Final = "chat_completion"
PROMPT: Final = "prompt"
FILE: Final = "file"
VECTOR_STORE: Final = "vector_store"
CONTAINER: Final = "container"
SKILL: Final = "skill"
TUNNEL: Final = "tunnel"
AUDIO: Final = "audio"
VOICE: Final = "voice"

ID_LENGTH: Final = 256
"""Characters of the longest id that anything can be owned by; a longer one belongs to nobody."""


class Resource(msgspec.Struct, array_like=True, frozen=True):
    """One thing at a provider, and whose it is.

    All tenants share the provider's account, so an id is worth nothing by itself: it is looked up together with the
    account that mentions it. `kind` is the glossary's or OpenAI's word (`response`, `conversation`, `chat_completion`,
    `file`, …), `provider` the configured name under which requests about it are sent.
    """

    account_id: UUID
    kind: str
    id: str
    provider: str


def ownable(resource_id: str) -> bool:
    """Whether a text can be an id at all: printable ASCII of a bounded length, as every provider's are."""
    return 0 < len(resource_id) <= ID_LENGTH and resource_id.isascii() and resource_id.isprintable()


ResourceKey = tuple[UUID, str, str]
"""What a resource is looked up by: whose it would be, its kind, its id."""


def key_of(resource: Resource) -> ResourceKey:
    """The key of a resource."""
    return resource.account_id, resource.kind, resource.id
