"""Keys: what the proxy knows of the secret that a client presents."""

import hashlib
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from uuid import UUID

from meterproxy.core.account import AccountEntry
from meterproxy.core.lending import LeaseKey
from meterproxy.core.plan import Plan

KEY_PREFIX = "mp-"

OPERATIONS = (
    "chat completion embedding response message image video speech transcription translation moderation batch realtime"
    " file vector_store fine_tuning logged"
).split()
"""What can be asked, by the names that policies and rows use; not all of it is served yet."""


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """What a key may do; None stands for "anything".

    `models` are globs, `operations` names of operations, `highest_request_nanos` the dearest hold of one request.
    """

    models: tuple[str, ...] | None = None
    operations: tuple[str, ...] | None = None
    networks: tuple[IPv4Network | IPv6Network, ...] | None = None
    highest_request_nanos: int | None = None


@dataclass(frozen=True, slots=True)
class KeyEntry:
    """A live key as the directory keeps it in memory: who it acts for and what it may do.

    `origin_id` is the first key of its chain of rotations, whose limits it goes on under; None where that is itself.
    """

    key_id: UUID
    account: AccountEntry
    user_id: UUID
    policy: KeyPolicy
    expires_us: int | None = None
    team_id: UUID | None = None
    origin_id: UUID | None = None
    account_id: UUID = field(init=False)
    credit: LeaseKey = field(init=False, compare=False)
    """The account's credit, as a limit that every request of this key draws from."""
    plans: dict[tuple[str, str], Plan] | None = field(init=False, compare=False, repr=False, default=None)
    """What requests draw from, by operation and model, as far as it was needed; see `core.plan`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "account_id", self.account.account_id)
        object.__setattr__(self, "credit", self.account.credit)


def digest_of(secret: bytes) -> bytes:
    """The SHA-256 under which a key is stored and looked up; the secret itself is kept nowhere.

    A plain hash suffices because secrets are 256 random bits, which no dictionary holds.
    """
    return hashlib.sha256(secret).digest()
