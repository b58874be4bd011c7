"""Bodies: what the operator's API accepts, validated; a fault is a 400 that names the member."""

from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Annotated, Any, Final, Literal, TypeVar
from uuid import UUID

import orjson
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    StrictBool,
    ValidationError,
    WithJsonSchema,
)

from meterproxy.control.faults import malformed
from meterproxy.core.key import OPERATIONS, KeyPolicy
from meterproxy.core.money import parse_usd
from meterproxy.errors import ApiError, Case
from meterproxy.store.instants import storable

T = TypeVar("T", bound=BaseModel)

AMOUNT_PATTERN: Final = r"^-?[0-9]{1,12}(\.[0-9]{1,9})?$"
_NOT_NEGATIVE: Final = AMOUNT_PATTERN.replace("-?", "")


def _nanos(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError('must be a decimal string in USD, such as "5.00"')  # noqa: TRY004  pydantic wants ValueError
    return parse_usd(value)


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL")
    return text


def _visible(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be blank")
    return text


def _network(value: Any) -> IPv4Network | IPv6Network:
    if not isinstance(value, str):
        raise ValueError('must be a network such as "10.0.0.0/8"')  # noqa: TRY004  pydantic wants ValueError
    return ip_network(value)


def _instant(value: Any) -> datetime:
    if not isinstance(value, str):
        raise ValueError('must be an instant such as "2030-01-31T00:00:00Z"')  # noqa: TRY004  pydantic wants ValueError
    instant = datetime.fromisoformat(value)
    if instant.tzinfo is None:
        raise ValueError("must have a time zone")
    return storable(instant)


def _operation(text: str) -> str:
    if text not in OPERATIONS:
        raise ValueError(f"must be one of {', '.join(OPERATIONS)}")
    return text


Text = AfterValidator(_storable)
Name = Annotated[
    str, Field(min_length=1, max_length=200, json_schema_extra={"pattern": r"\S"}), Text, AfterValidator(_visible)
]
Description = Annotated[str, Field(max_length=2000), Text]
_TOLD_AMOUNT: Final = {"type": "string", "pattern": AMOUNT_PATTERN, "description": "USD, decimal", "examples": ["5.00"]}
Amount = Annotated[int, BeforeValidator(_nanos), WithJsonSchema(_TOLD_AMOUNT)]
AmountNotNegative = Annotated[
    int, BeforeValidator(_nanos), Field(ge=0), WithJsonSchema({**_TOLD_AMOUNT, "pattern": _NOT_NEGATIVE})
]
AmountAboveZero = Annotated[
    int, BeforeValidator(_nanos), Field(gt=0), WithJsonSchema({**_TOLD_AMOUNT, "pattern": _NOT_NEGATIVE})
]
Operation = Annotated[str, AfterValidator(_operation), WithJsonSchema({"type": "string", "enum": list(OPERATIONS)})]
Network = Annotated[
    IPv4Network | IPv6Network,
    PlainValidator(_network),
    WithJsonSchema({"type": "string", "examples": ["10.0.0.0/8", "2001:db8::/32"]}),
]
Instant = Annotated[datetime, PlainValidator(_instant), WithJsonSchema({"type": "string", "format": "date-time"})]
AtMost100 = Field(max_length=100)


class Body(BaseModel):
    """What all bodies have in common: no unknown members, no silent conversions, no error that repeats a secret."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class NewAccount(Body):
    name: Name


class Renamed(Body):
    """Another name."""

    name: Name


class ChangedAccount(Body):
    """What may change of an account; `name` is its organization's."""

    name: Name | None = None
    frozen: StrictBool | None = None
    overdraft: AmountNotNegative | None = None


class ChangedFleet(Body):
    lending: StrictBool | None = None
    read_only: StrictBool | None = None
    shadow: StrictBool | None = None


class ChangedHost(Body):
    drained: StrictBool


class NewCredit(Body):
    amount: Amount
    kind: Literal["grant", "purchase", "refund", "adjustment"]
    description: Description = ""
    idempotency_key: Name | None = None


class NewTeamOfAccount(Body):
    account_id: UUID
    name: Name


class KeyBody(Body):
    """What is said of a key that is to be made."""

    name: Name
    team_id: UUID | None = None
    description: Description = ""
    models: Annotated[tuple[Name, ...], AtMost100] | None = None
    operations: Annotated[tuple[Operation, ...], AtMost100] | None = None
    networks: Annotated[tuple[Network, ...], AtMost100] | None = None
    highest_request: AmountAboveZero | None = None
    reads_usage: StrictBool = False
    expires_at: Instant | None = None


class NewKeyBody(KeyBody):
    account_id: UUID
    user_id: UUID | None = None

    @property
    def policy(self) -> KeyPolicy:
        """What the key may do."""
        return KeyPolicy(self.models, self.operations, self.networks, self.highest_request)

    @property
    def expiry(self) -> datetime | None:
        return self.expires_at


class ChangedKey(Body):
    """What may change about a key; what is not named stays, `null` takes a restriction away."""

    name: Name = Field(default_factory=str)
    description: Description = ""
    team_id: UUID | None = None
    models: Annotated[tuple[Name, ...], AtMost100] | None = None
    operations: Annotated[tuple[Operation, ...], AtMost100] | None = None
    networks: Annotated[tuple[Network, ...], AtMost100] | None = None
    highest_request: AmountAboveZero | None = None
    reads_usage: StrictBool = False
    expires_at: Instant | None = None

    def changes(self) -> dict[str, Any]:
        """The members that were named, as a key's row names them."""
        columns = {"highest_request": "highest_request_nanos"}
        return {columns.get(name, name): getattr(self, name) for name in self.model_fields_set}


def read(kind: type[T], body: bytes) -> T:
    """Validate a JSON body. Raises ApiError MALFORMED, which names the first member at fault."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(Case.MALFORMED, "The body is not valid JSON.") from error
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        raise malformed(error, "The body") from error
