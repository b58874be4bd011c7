"""Accounts as workers keep them in memory: shared by all keys of the account, so that a change reaches each of them."""

from collections.abc import Sequence
from uuid import UUID

from meterproxy.core.lending import LeaseKey
from meterproxy.core.limit import Limit


class AccountEntry:
    """An account's credit, its limits in the order in which requests draw from them, and whether it is frozen.

    There is one for each account of a directory; `version` grows with each change, so that what was derived from the
    limits can tell that it is old.
    """

    __slots__ = ("__weakref__", "account_id", "credit", "frozen", "limits", "organization_id", "version")

    def __init__(self, account_id: UUID, organization_id: UUID, credit_limit_id: UUID) -> None:
        self.account_id = account_id
        self.organization_id = organization_id
        self.credit = LeaseKey(account_id, credit_limit_id, 0)
        self.limits: tuple[Limit, ...] = ()
        self.frozen = False
        self.version = 0

    def change(self, limits: Sequence[Limit], *, frozen: bool) -> None:
        """Take over what PostgreSQL says now; what is the same changes nothing."""
        ordered = tuple(sorted(limits, key=lambda limit: limit.rank))
        if ordered != self.limits or frozen != self.frozen:
            self.limits, self.frozen = ordered, frozen
            self.version += 1
