"""Resources: what a tenant makes at a provider and may mention later by its id."""

from uuid import UUID

import msgspec


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


ResourceKey = tuple[UUID, str, str]
"""What a resource is looked up by: whose it would be, its kind, its id."""


def key_of(resource: Resource) -> ResourceKey:
    """The key of a resource."""
    return resource.account_id, resource.kind, resource.id
