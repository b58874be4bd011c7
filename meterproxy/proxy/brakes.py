"""Brakes: what an operator has stopped, asked of every request that costs before its body is read.

Rules
-----
- Running exchanges end as they would; only new ones are refused.
- What costs nothing goes on.
"""

from typing import Final

from meterproxy.core.key import KeyEntry
from meterproxy.errors import ApiError, Case

_READ_ONLY: Final = "The service is in read-only mode: an operator has stopped everything that costs."
_DRAINED: Final = "This host is being drained: an operator has told it to serve nothing more."
_FROZEN: Final = "This account is frozen: an operator has stopped everything that costs. Please contact support."


class Brakes:
    """What holds for this worker; `service` keeps it up to date."""

    __slots__ = ("drained", "read_only")

    def __init__(self) -> None:
        self.read_only = False
        self.drained = False

    def check(self, key: KeyEntry) -> None:
        """Refuse what may not be served now. Raises ApiError ACCOUNT_FROZEN, READ_ONLY, HOST_DRAINED."""
        if key.account.frozen:
            raise ApiError(Case.ACCOUNT_FROZEN, _FROZEN)
        if self.read_only:
            raise ApiError(Case.READ_ONLY, _READ_ONLY)
        if self.drained:
            raise ApiError(Case.HOST_DRAINED, _DRAINED)
