"""Who may do what: the table, walked for every principal, own and foreign."""

from uuid import UUID

import pytest

from meterproxy.control.access import ROLES, Acting, Permission, decide, is_of_organization, wanted_organization
from meterproxy.control.principal import ANONYMOUS, OPERATOR, Key, Membership, Principal, User
from meterproxy.core.role import Role
from meterproxy.errors import ApiError, Case

OWN, FOREIGN, ACCOUNT, USER, KEY = (UUID(int=number) for number in range(1, 6))
IN_OWN = {role: Membership(OWN, ACCOUNT, role) for role in Role}
IN_FOREIGN = Membership(FOREIGN, UUID(int=9), Role.OWNER)
KEY_OF_OWN = Key(KEY, USER, OWN, ACCOUNT)


def user(role: Role, *, is_operator: bool = False) -> User:
    return User(USER, "Ann", None, is_operator=is_operator, memberships={OWN: IN_OWN[role]})


def decided(principal: Principal, permission: Permission, place: Membership | None) -> Acting | Case:
    try:
        return decide(principal, permission, place)
    except ApiError as error:
        return error.case


@pytest.mark.parametrize("permission", list(Permission))
@pytest.mark.parametrize("role", list(Role))
def test_a_role_may_what_the_table_says_and_nothing_elsewhere(permission: Permission, role: Role) -> None:
    """A foreign organization does not exist, whatever one is at home."""
    own, foreign = decided(user(role), permission, IN_OWN[role]), decided(user(role), permission, IN_FOREIGN)
    if not is_of_organization(permission):
        allowed = permission in {Permission.OPEN, Permission.SIGNED_IN}
        assert isinstance(own, Acting) if allowed else own is Case.PERMISSION_DENIED
        return
    assert foreign is Case.NOT_FOUND
    if role not in ROLES[permission]:
        assert own is Case.PERMISSION_DENIED
        return
    assert isinstance(own, Acting)
    assert (own.organization_id, own.account_id, own.role) == (OWN, ACCOUNT, role)
    assert own.user_id == (USER if role is Role.MEMBER else None)


@pytest.mark.parametrize("permission", list(Permission))
def test_nobody_may_nothing(permission: Permission) -> None:
    """Without a sign-in there is only what is open."""
    assert (decided(ANONYMOUS, permission, None) == Acting(ANONYMOUS)) == (permission is Permission.OPEN)


@pytest.mark.parametrize("permission", list(Permission))
def test_a_key_reads_what_it_has_used(permission: Permission) -> None:
    """Its own rows, in its own organization; and it tells what it has used elsewhere."""
    own = decided(KEY_OF_OWN, permission, IN_OWN[Role.VIEWER])
    if permission in {Permission.READ_OWN, Permission.LOG_OWN}:
        assert own == Acting(KEY_OF_OWN, OWN, ACCOUNT, None, USER, KEY)
        assert decided(KEY_OF_OWN, permission, IN_FOREIGN) is Case.NOT_FOUND
    else:
        assert own is (Case.PERMISSION_DENIED if permission is not Permission.OPEN else own)
        assert isinstance(own, Acting) == (permission is Permission.OPEN)


@pytest.mark.parametrize("principal", [OPERATOR, user(Role.VIEWER, is_operator=True)])
@pytest.mark.parametrize("permission", [*ROLES, Permission.OPERATE])
def test_operators_act_everywhere(principal: Principal, permission: Permission) -> None:
    """By the token or as a signed-in user; not in an organization that is not there."""
    assert isinstance(decided(principal, permission, IN_FOREIGN), Acting)
    if permission in ROLES:
        assert decided(principal, permission, None) is Case.NOT_FOUND


def test_a_call_is_about_the_organization_it_names_else_the_one_remembered_else_the_first() -> None:
    """A remembered one that was left is forgotten."""
    member = User(USER, "Ann", None, None, FOREIGN, memberships={OWN: IN_OWN[Role.MEMBER], FOREIGN: IN_FOREIGN})
    left = User(USER, "Ann", None, None, FOREIGN, memberships={OWN: IN_OWN[Role.MEMBER]})
    assert wanted_organization(member, OWN) == OWN
    assert wanted_organization(member, None) == FOREIGN
    assert wanted_organization(left, None) == OWN
    assert wanted_organization(User(USER, "Ann", None), None) is None
    assert wanted_organization(KEY_OF_OWN, None) == OWN
