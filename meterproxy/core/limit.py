"""Limits: what a request draws from besides its account's credit, and how much of each measure an ending consumes.

Rules
-----
- A request draws from every limit on its path in one fixed order: key, user, team, organization, account; in a scope
  requests, concurrent, tokens, amount; then by id; credit comes last. So which limit refuses is deterministic.
- A hard limit with a cap is leased. A soft one, and one without a cap, is only counted when an exchange is settled.
- What an ending consumes of a draw follows from its record alone, so that the book, settle and audit cannot differ.
"""

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from fnmatch import fnmatchcase
from uuid import UUID

from meterproxy.core.window import Window, WindowKind, window_at


class Measure(IntEnum):
    """What a limit counts; the number is what journals say."""

    AMOUNT = 0
    REQUESTS = 1
    TOKENS = 2
    CONCURRENT = 3
    EXPOSURE = 4
    """What running requests may still cost beyond what they hold: see `ledger.holds`."""


class Scope(StrEnum):
    """Whose requests a limit counts, the narrowest first."""

    KEY = "key"
    USER = "user"
    TEAM = "team"
    ORGANIZATION = "organization"
    ACCOUNT = "account"


_SCOPES = list(Scope)
_MEASURES = (Measure.REQUESTS, Measure.CONCURRENT, Measure.TOKENS, Measure.AMOUNT, Measure.EXPOSURE)
_NOUNS = {
    Measure.AMOUNT: "budget",
    Measure.REQUESTS: "requests",
    Measure.TOKENS: "tokens",
    Measure.CONCURRENT: "concurrent requests",
    Measure.EXPOSURE: "exposure",
}
_WINDOWLESS = (WindowKind.NONE, WindowKind.TOTAL)


@dataclass(frozen=True, slots=True)
class Limit:
    """A budget or a rate limit as a worker keeps it in memory; `cap` and `grace` are in its own measure."""

    limit_id: UUID
    scope: Scope
    scope_id: UUID
    measure: Measure
    window: WindowKind
    cap: int | None
    time_zone: str = "UTC"
    hard: bool = True
    grace: int = 0
    operation: str | None = None
    model_pattern: str | None = None
    name: str = ""

    @property
    def leased(self) -> bool:
        """Whether requests are refused for its sake; the others are only counted."""
        return self.hard and self.cap is not None

    @property
    def rank(self) -> tuple[int, int, UUID]:
        """Its place in the order in which a request draws."""
        return _SCOPES.index(self.scope), _MEASURES.index(self.measure), self.limit_id

    @property
    def title(self) -> str:
        """How people are told of it: by its name, else by what it is."""
        if self.name:
            return f'"{self.name}"'
        often = "" if self.window in _WINDOWLESS else f" per {self.window}"
        return f"{_NOUNS[self.measure]}{often} of this {self.scope}"

    def applies(self, operation: str, model: str) -> bool:
        """Whether a request for this operation and model draws from it."""
        return (self.operation is None or self.operation == operation) and (
            self.model_pattern is None or fnmatchcase(model, self.model_pattern)
        )

    def window_at(self, at_us: int) -> Window:
        """The window that an exchange accepted at this instant belongs to."""
        return window_at(self.window, self.time_zone, at_us)
