"""Terms: what people say of a limit when they make it, and whether it makes sense.

Rules
-----
- A cap, a grace and what is counted are in the limit's own measure: nanodollars, requests, tokens, running requests.
- Only concurrent requests have no window; everything else has one.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from meterproxy.core.key import OPERATIONS
from meterproxy.core.limit import Measure
from meterproxy.core.money import MAX_NANOS
from meterproxy.core.window import WindowKind
from meterproxy.core.zone import zone_names

MARKS: Final = (75, 90, 100)
"""Percentages of a cap whose crossing is recorded where nothing else is said."""
MOST_MARKS: Final = 20
HIGHEST_MARK: Final = 1000
LONGEST: Final = 200
"""Characters of a name or a pattern."""
MOST: Final = MAX_NANOS // 4
"""No cap may pass this, so that sums stay within `bigint`."""


class Fault(NamedTuple):
    """What is wrong with the terms, and which of them is."""

    member: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitTerms:
    """A limit as people describe it, without whose it is."""

    measure: Measure
    window: WindowKind
    cap: int | None = None
    time_zone: str = "UTC"
    hard: bool = True
    grace: int = 0
    operation: str | None = None
    model_pattern: str | None = None
    name: str = ""
    marks: tuple[int, ...] = MARKS

    @property
    def kind(self) -> str:
        """What such a limit is called: a budget is of money, everything else a rate."""
        return "budget" if self.measure is Measure.AMOUNT else "rate"

    @property
    def seedable(self) -> bool:
        """Whether what was used before it was made can be looked up: nothing is kept by the minute."""
        return self.window not in {WindowKind.NONE, WindowKind.MINUTE}

    def fault(self) -> Fault | None:
        """The first thing that makes no sense."""
        if (self.measure is Measure.CONCURRENT) != (self.window is WindowKind.NONE):
            return Fault("window", "must be given, for all measures but concurrent, which has none")
        if self.operation is not None and self.operation not in OPERATIONS:
            return Fault("operation", f"must be one of {', '.join(OPERATIONS)}")
        if self.model_pattern is not None and not fits(self.model_pattern, 1):
            return Fault("model", f"must have 1 to {LONGEST} characters")
        if self.time_zone not in zone_names():
            return Fault("time_zone", "is not a time zone, such as Europe/Berlin")
        return changeable_fault(self.cap, self.grace, self.name, self.marks)


def changeable_fault(cap: int | None, grace: int, name: str, marks: tuple[int, ...]) -> Fault | None:
    """What is wrong with those terms that may change."""
    if cap is not None and not 0 <= cap <= MOST:
        return Fault("cap", "must not be negative, nor larger than any account holds")
    if not 0 <= grace <= MOST:
        return Fault("grace", "must not be negative, nor larger than any account holds")
    if grace and cap is None:
        return Fault("grace", "needs a cap that it goes beyond")
    if not fits(name):
        return Fault("name", f"must have at most {LONGEST} characters")
    if len(marks) > MOST_MARKS or len(set(marks)) != len(marks) or not all(1 <= mark <= HIGHEST_MARK for mark in marks):
        return Fault("marks", f"must be at most {MOST_MARKS} different percentages from 1 to {HIGHEST_MARK}")
    return None


def fits(text: str, shortest: int = 0) -> bool:
    """Whether PostgreSQL and people can do with a text."""
    return shortest <= len(text) <= LONGEST and "\0" not in text
