"""Limits that are made with each new account and each new key, as an operator describes them by name.

Rules
-----
- They are made once, with the account or key; a change of the configuration changes no limit that exists.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, model_validator

from meterproxy.config.section import Section
from meterproxy.config.values import parse_list
from meterproxy.core.limit import Measure
from meterproxy.core.limit_terms import MARKS, LimitTerms
from meterproxy.core.money import parse_usd
from meterproxy.core.window import WindowKind

Quantity = Annotated[str, BeforeValidator(lambda value: str(value) if isinstance(value, int) else value)]
"""USD for amounts, else a whole number; as text until the measure is known."""


class LimitDefault(Section):
    """One limit; its name is the level's."""

    measure: Literal["amount", "requests", "tokens", "concurrent"]
    window: Literal["minute", "hour", "day", "week", "month", "total"] | None = None
    cap: Quantity | None = None
    grace: Quantity = "0"
    operation: str | None = None
    model: str | None = None
    time_zone: str = "UTC"
    enforcement: Literal["hard", "soft"] = "hard"
    marks: Annotated[tuple[int, ...], BeforeValidator(parse_list)] = MARKS

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        fault = self.terms("").fault()
        if fault is not None:
            raise ValueError(f"{fault.member} {fault.text}")
        return self

    def terms(self, name: str) -> LimitTerms:
        """What is said of the limit. Raises ValueError."""
        measure = Measure[self.measure.upper()]
        return LimitTerms(
            measure=measure,
            window=WindowKind(self.window or "none"),
            cap=None if self.cap is None else _quantity("cap", self.cap, measure),
            time_zone=self.time_zone,
            hard=self.enforcement == "hard",
            grace=_quantity("grace", self.grace, measure),
            operation=self.operation,
            model_pattern=self.model,
            name=name,
            marks=self.marks,
        )


class LimitDefaults(Section):
    """Limits of each new account and of each new key, by their names."""

    account: Mapping[str, LimitDefault] = {}
    key: Mapping[str, LimitDefault] = {}

    @property
    def of_accounts(self) -> tuple[LimitTerms, ...]:
        return tuple(limit.terms(name) for name, limit in self.account.items())

    @property
    def of_keys(self) -> tuple[LimitTerms, ...]:
        return tuple(limit.terms(name) for name, limit in self.key.items())


def _quantity(member: str, text: str, measure: Measure) -> int:
    try:
        return parse_usd(text) if measure is Measure.AMOUNT else int(text)
    except ValueError as error:
        told = str(error) if measure is Measure.AMOUNT else "must be a whole number"
        raise ValueError(f"{member} {told}") from error
