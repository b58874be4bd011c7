"""Accounts as workers keep them in memory: shared by all keys of the account, so that a change reaches each of them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING
from uuid import UUID

from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Limit, Measure, Scope
from meterproxy.core.plan import Plan, Planned

if TYPE_CHECKING:
    from meterproxy.core.key import KeyEntry


class AccountEntry:
    """An account's credit, its limits in the order in which requests draw from them, and whether it is frozen.

    There is one for each account of a directory; `version` grows with each change, so that what was derived from the
    limits can tell that it is old. `plan` is what requests draw from while there are no limits; `exposure` is the limit
    on what adaptive holds leave unheld, None where all is to be held.
    """

    __slots__ = (
        "__weakref__",
        "_of_scope",
        "account_id",
        "credit",
        "exposure",
        "frozen",
        "limits",
        "organization_id",
        "plan",
        "version",
    )

    def __init__(self, account_id: UUID, organization_id: UUID, credit_limit_id: UUID) -> None:
        self.account_id = account_id
        self.organization_id = organization_id
        self.credit = LeaseKey(account_id, credit_limit_id, 0)
        self.plan = Plan((Planned(self.credit, Measure.AMOUNT),))
        self.limits: tuple[Limit, ...] = ()
        self.exposure: Limit | None = None
        self.frozen = False
        self.version = 0
        self._of_scope: dict[tuple[Scope, UUID], list[Limit]] = {}

    def change(self, limits: Sequence[Limit], *, frozen: bool) -> None:
        """Take over what PostgreSQL says now; what is the same changes nothing."""
        exposures = [limit for limit in limits if limit.measure is Measure.EXPOSURE]
        self.exposure = exposures[0] if exposures else None
        on_paths = [limit for limit in limits if limit.measure is not Measure.EXPOSURE]
        ordered = tuple(sorted(on_paths, key=lambda limit: limit.rank))
        if ordered != self.limits or frozen != self.frozen:
            self.limits, self.frozen = ordered, frozen
            self._of_scope = {}
            for limit in ordered:
                self._of_scope.setdefault((limit.scope, limit.scope_id), []).append(limit)
            self.version += 1

    def limits_on_path(self, key: "KeyEntry") -> Iterator[Limit]:
        """The limits that requests of this key may draw from, in their order."""
        for scope, scope_id in (
            (Scope.KEY, key.origin_id or key.key_id),
            (Scope.USER, key.user_id),
            (Scope.TEAM, key.team_id),
            (Scope.ORGANIZATION, self.organization_id),
            (Scope.ACCOUNT, self.account_id),
        ):
            if scope_id is not None:
                yield from self._of_scope.get((scope, scope_id), ())
