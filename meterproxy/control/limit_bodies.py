"""Bodies of limits: what people say when they make or change one, validated.

Rules
-----
- A cap and a grace of money are decimal strings in USD, of everything else whole numbers.
"""

from typing import Annotated, Any, Literal
from uuid import UUID

from pydantic import Field, PlainValidator, StrictBool, WithJsonSchema

from meterproxy.control.bodies import AMOUNT_PATTERN, Body, Name, Text
from meterproxy.core.limit import Measure, Scope
from meterproxy.core.limit_terms import MARKS, LimitTerms
from meterproxy.core.money import parse_usd
from meterproxy.core.window import WindowKind
from meterproxy.errors import ApiError, Case


def _quantity(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError("must be a decimal string in USD for amounts, else a whole number")  # noqa: TRY004  pydantic's
    return value


def _fixed(_value: Any) -> None:
    raise ValueError("cannot be changed; retire this limit and make a new one")


Quantity = Annotated[
    int | str,
    PlainValidator(_quantity),
    WithJsonSchema(
        {
            "anyOf": [{"type": "string", "pattern": AMOUNT_PATTERN}, {"type": "integer"}],
            "description": "USD, decimal, as text for an amount; a whole number for all else",
            "examples": ["5.00", 100],
        }
    ),
]
Title = Annotated[str, Field(max_length=200), Text]
Marks = Annotated[tuple[Annotated[int, Field(strict=True)], ...], Field(max_length=100)]
Fixed = Annotated[None, PlainValidator(_fixed), WithJsonSchema({"type": "null", "description": "cannot be changed"})]
"""What of a limit is for ever: to change it would make it another one."""


class NewLimit(Body):
    scope: Literal["account", "organization", "team", "user", "key"]
    scope_id: UUID
    measure: Literal["amount", "requests", "tokens", "concurrent"]
    window: Literal["minute", "hour", "day", "week", "month", "total"] | None = None
    cap: Quantity | None = None
    operation: Name | None = None
    model: Name | None = None
    time_zone: Name = "UTC"
    enforcement: Literal["hard", "soft"] = "hard"
    grace: Quantity | None = None
    name: Title = ""
    marks: Marks = MARKS
    seed: StrictBool = True

    @property
    def whose(self) -> tuple[Scope, UUID]:
        return Scope(self.scope), self.scope_id

    def terms(self) -> LimitTerms:
        """What it says of the limit. Raises ApiError MALFORMED."""
        measure = Measure[self.measure.upper()]
        return LimitTerms(
            measure=measure,
            window=WindowKind(self.window or "none"),
            cap=quantity("cap", self.cap, measure),
            time_zone=self.time_zone,
            hard=self.enforcement == "hard",
            grace=quantity("grace", self.grace, measure) or 0,
            operation=self.operation,
            model_pattern=self.model,
            name=self.name,
            marks=self.marks,
        )


class ChangedLimit(Body):
    """What may change about a limit; what is not named stays, a cap of `null` only counts."""

    cap: Quantity | None = None
    grace: Quantity | None = None
    enforcement: Literal["hard", "soft"] = "hard"
    name: Title = ""
    marks: Marks = MARKS
    scope: Fixed = None
    scope_id: Fixed = None
    measure: Fixed = None
    operation: Fixed = None
    model: Fixed = None
    window: Fixed = None
    time_zone: Fixed = None

    def changes(self, measure: Measure) -> dict[str, Any]:
        """The members that were named, as a limit's row has them. Raises ApiError MALFORMED."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        for name in ("cap", "grace"):
            if name in given:
                given[name] = quantity(name, given[name], measure)
        if given.get("grace", 0) is None:
            given["grace"] = 0
        return given


def quantity(member: str, value: int | str | None, measure: Measure) -> int | None:
    """A cap or grace in its measure's own unit. Raises ApiError MALFORMED."""
    if value is None:
        return None
    try:
        if measure is Measure.AMOUNT:
            if not isinstance(value, str):
                raise ValueError('must be a decimal string in USD, such as "5.00"')  # noqa: TRY301
            return parse_usd(value)
        if isinstance(value, str):
            raise ValueError("must be a whole number")  # noqa: TRY301, TRY004
    except ValueError as error:
        raise ApiError(Case.MALFORMED, f"{member}: {error}.", param=member) from error
    return value
