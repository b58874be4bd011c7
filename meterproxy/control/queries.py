"""Queries: what stands behind the question mark, validated; a fault is a 400 that names the member."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal, TypeVar
from uuid import UUID

from multidict import MultiMapping
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from meterproxy.control.faults import malformed
from meterproxy.core.entry import EntryKind
from meterproxy.errors import ApiError, Case

MOST_ROWS: Final = 500
DEFAULT_ROWS: Final = 50

T = TypeVar("T", bound=BaseModel)
Rows = Annotated[int, Field(ge=1, le=MOST_ROWS)]
Switch = Literal["0", "1"]


def _in_utc(instant: datetime) -> datetime:
    try:
        return instant.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is not in the years 1 to 9999") from error


Instant = Annotated[AwareDatetime, AfterValidator(_in_utc)]


class Query(BaseModel):
    """What all queries have in common: no unknown names; each name once, but for lists."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NoQuery(Query):
    """Nothing but the organization that is meant, which any call may name."""


class AnyQuery(Query):
    """Names of any kind: whoever is asked reads them himself."""

    model_config = ConfigDict(extra="allow", frozen=True)


class Fresh(Query):
    """`fresh=1` waits until what was captured before the call is settled."""

    fresh: Switch = "0"


class Page(Query):
    """One page of a list in the order of ids."""

    cursor: UUID | None = None
    limit: Rows = DEFAULT_ROWS


class NumberedPage(Query):
    """One page of a list that is numbered, the latest first."""

    cursor: Annotated[int, Field(ge=1, le=2**62)] | None = None
    limit: Rows = DEFAULT_ROWS


def as_list(value: Any) -> Any:
    """What is there once, of what may be there more than once."""
    return value if value is None or isinstance(value, list) else [value]


class Kinds(Query):
    """Ledger entries of these kinds only; `kind` may be there more than once."""

    kind: Annotated[list[EntryKind] | None, BeforeValidator(as_list)] = None


class EntryPage(NumberedPage, Kinds):
    """One page of ledger entries."""


class AccountPage(Page):
    """One page of what belongs to accounts, or to one."""

    account_id: UUID | None = None


def read(kind: type[T], query: MultiMapping[str] | Mapping[str, str]) -> T:
    """Validate a query; `name[]` is `name`, and what is there more than once is a list. Raises ApiError MALFORMED."""
    given: dict[str, list[str]] = {}
    for name, value in query.items():
        text = name + value
        if "\0" in text or any("\ud800" <= letter <= "\udfff" for letter in text):
            raise ApiError(Case.MALFORMED, "The query is not text.")  # nothing that PostgreSQL could look for
        given.setdefault(name.removesuffix("[]"), []).append(value)
    try:
        return kind.model_validate({name: values[0] if len(values) == 1 else values for name, values in given.items()})
    except ValidationError as error:
        raise malformed(error) from error
