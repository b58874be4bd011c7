"""Whose: of which account rows are read, and whether of one user or key of it only."""

from dataclasses import dataclass
from uuid import UUID


@dataclass(frozen=True, slots=True)
class Whose:
    """What somebody may see of an account: all of it, one user's part, one key's."""

    account_id: UUID
    user_id: UUID | None = None
    key_id: UUID | None = None

    @property
    def is_whole(self) -> bool:
        """Whether everything of the account may be seen."""
        return self.user_id is None and self.key_id is None
