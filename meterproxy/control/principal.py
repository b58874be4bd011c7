"""Principals: who asks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID

from meterproxy.core.role import Role
from meterproxy.proxy.origin import Networks


@dataclass(frozen=True, slots=True)
class Membership:
    """Somebody's place in one organization, whose credit account goes with it."""

    organization_id: UUID
    account_id: UUID
    role: Role


@dataclass(frozen=True, slots=True)
class User:
    """A signed-in user.

    Args:
        login_id: the log-in by which he came; None for the token of another issuer.
        organization_id: the organization that he works in when a request names none.
        is_operator: he may do what the operator may.
        csrf: he came by a browser's cookie, so what changes anything must carry this.
        memberships: his places, by organization.
    """

    id: UUID
    name: str
    email: str | None
    login_id: UUID | None = None
    organization_id: UUID | None = None
    is_operator: bool = False
    memberships: Mapping[UUID, Membership] = field(default_factory=dict)
    csrf: str | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """Whoever presents a key: he reads what this key has used, and the balance that it spends.

    Args:
        reads_usage: he reads everybody's usage in the organization, as a tool that reports costs does.
        networks: from where alone he may come; None: from anywhere.
    """

    id: UUID
    user_id: UUID
    organization_id: UUID
    account_id: UUID
    reads_usage: bool = False
    networks: Networks | None = None


@dataclass(frozen=True, slots=True)
class Operator:
    """Whoever has the admin token."""


@dataclass(frozen=True, slots=True)
class Anonymous:
    """Anybody."""


Principal = User | Key | Operator | Anonymous

OPERATOR = Operator()
ANONYMOUS = Anonymous()


def actor(principal: Principal) -> str:
    """How the audit log calls somebody."""
    match principal:
        case User(id=user_id):
            return f"user {user_id}"
        case Key(id=key_id):
            return f"key {key_id}"
        case Operator():
            return "operator"
        case Anonymous():
            return "anonymous"
