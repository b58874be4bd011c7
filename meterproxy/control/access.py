"""Access: who may do what, decided here and nowhere else.

Rules
-----
- Every route names one permission. Who has it is the table below; the access matrix in the tests walks it.
- What belongs to an organization is seen and changed in the name of that organization only: a foreign one does not
  exist (404). Endpoints hand the account or organization of `Acting` to the store, never one that a client wrote.
- Members see what is their own; `Acting.user_id` and `Acting.key_id` say so, and every read takes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final
from uuid import UUID

from meterproxy.control.principal import Anonymous, Key, Membership, Operator, Principal, User
from meterproxy.core.role import Role
from meterproxy.errors import ApiError, Case


class Permission(Enum):
    """What a route asks of who comes."""

    OPEN = "anybody"
    SIGNED_IN = "any signed-in user"
    READ_OWN = "one's own activity, and the balance it is paid from"
    READ_OWN_KEYS = "one's own keys"
    WRITE_OWN = "one's own keys and chat"
    READ_NOTIFICATIONS = "what one should hear of"
    LOG_OWN = "telling what one has used elsewhere"
    READ_USAGE = "everybody's usage in the organization"
    READ_ORGANIZATION = "budgets, everybody's keys, members and teams"
    MANAGE = "changing budgets, everybody's keys, members and teams"
    READ_BILLING = "purchases and invoices"
    BILL = "buying, and changing how is paid"
    OPERATE = "whatever the operator may"
    ADMIN_TOKEN = "the admin token itself"  # noqa: S105  a sentence


_READERS: Final = frozenset({Role.OWNER, Role.ADMIN, Role.BILLING, Role.VIEWER})

ROLES: Final[Mapping[Permission, frozenset[Role]]] = {
    Permission.READ_OWN: frozenset(Role),
    Permission.READ_OWN_KEYS: frozenset(Role),
    Permission.READ_NOTIFICATIONS: frozenset(Role),
    Permission.WRITE_OWN: frozenset({Role.OWNER, Role.ADMIN, Role.MEMBER}),
    Permission.LOG_OWN: frozenset({Role.OWNER, Role.ADMIN, Role.MEMBER}),
    Permission.READ_USAGE: _READERS,
    Permission.READ_ORGANIZATION: _READERS,
    Permission.MANAGE: frozenset({Role.OWNER, Role.ADMIN}),
    Permission.READ_BILLING: frozenset({Role.OWNER, Role.BILLING}),
    Permission.BILL: frozenset({Role.OWNER, Role.BILLING}),
}
"""What each role may do in its organization; the operator may all of it in every one."""

_REFUSALS: Final[Mapping[type, str]] = {
    Key: "An API key does not allow this: sign in, or use a key that may read usage where that is what is wanted.",
    Operator: "The admin token does not allow this: sign in as a user.",
}
"""Why somebody who is no user may not do something."""

OF_KEYS: Final = frozenset({Permission.READ_OWN, Permission.LOG_OWN})
"""What a key may do in the organization that it belongs to."""
OF_READING_KEYS: Final = OF_KEYS | {Permission.READ_USAGE}
"""The same where its policy lets it read everybody's usage."""


@dataclass(frozen=True, slots=True)
class Acting:
    """In whose name a call is made, and whose rows it may see.

    Args:
        organization_id, account_id: None where a route is not about one organization.
        role: the role in it; None for keys and the operator.
        user_id: only this user's rows; None: everybody's in the organization.
        key_id: only this key's rows.
    """

    principal: Principal
    organization_id: UUID | None = None
    account_id: UUID | None = None
    role: Role | None = None
    user_id: UUID | None = None
    key_id: UUID | None = None


def is_operator(principal: Principal) -> bool:
    """Whether somebody may do what the operator may."""
    return isinstance(principal, Operator) or (isinstance(principal, User) and principal.is_operator)


def reads_all(role: Role | None) -> bool:
    """Whether a key of somebody in this role may be let read everybody's usage; None: of a service."""
    return role is None or role in ROLES[Permission.READ_USAGE]


def is_of_organization(permission: Permission) -> bool:
    """Whether a permission is about one organization."""
    return permission in ROLES


def wanted_organization(principal: Principal, named: UUID | None) -> UUID | None:
    """The organization that a call is about: the one it names, else the one its principal works in."""
    if named is not None:
        return named
    match principal:
        case Key():
            return principal.organization_id
        case User(memberships=memberships):
            if principal.organization_id in memberships or (principal.is_operator and principal.organization_id):
                return principal.organization_id
            return min(memberships, default=None)  # ids are in the order of their making
        case _:
            return None


def decide(principal: Principal, permission: Permission, place: Membership | None) -> Acting:
    """Let a principal do what needs `permission`, or refuse.

    Args:
        place: his membership in the wanted organization; for operators, any organization there is.

    Raises:
        ApiError: NOT_SIGNED_IN, ADMIN_TOKEN_INVALID, PERMISSION_DENIED, or NOT_FOUND for a foreign organization.
    """
    if permission is Permission.OPEN:
        return Acting(principal)
    if isinstance(principal, Anonymous):
        raise ApiError(Case.NOT_SIGNED_IN, "Sign in first.", headers={"WWW-Authenticate": "Bearer"})
    if is_of_organization(permission):
        return _in_organization(principal, permission, place)
    if permission is Permission.SIGNED_IN:
        return _allowed(principal, allowed=isinstance(principal, User))
    return _allowed(principal, allowed=is_operator(principal))


def _in_organization(principal: Principal, permission: Permission, place: Membership | None) -> Acting:
    if place is None:
        raise ApiError(Case.NOT_FOUND, "There is no such organization.")
    organization_id, account_id = place.organization_id, place.account_id
    if isinstance(principal, Key):
        if principal.organization_id != organization_id:
            raise ApiError(Case.NOT_FOUND, "There is no such organization.")
        if principal.reads_usage:
            _allowed(principal, allowed=permission in OF_READING_KEYS)
            return Acting(principal, organization_id, account_id)
        _allowed(principal, allowed=permission in OF_KEYS)
        return Acting(principal, organization_id, account_id, None, principal.user_id, principal.id)
    if is_operator(principal):
        return Acting(principal, organization_id, account_id)
    assert isinstance(principal, User)
    if principal.memberships.get(organization_id) != place:
        raise ApiError(Case.NOT_FOUND, "There is no such organization.")
    _allowed(principal, allowed=place.role in ROLES[permission])
    sees_all = reads_all(place.role)
    return Acting(principal, organization_id, account_id, place.role, None if sees_all else principal.id)


def _allowed(principal: Principal, *, allowed: bool) -> Acting:
    if not allowed:
        raise ApiError(Case.PERMISSION_DENIED, _REFUSALS.get(type(principal), "Your role does not allow this."))
    return Acting(principal)
