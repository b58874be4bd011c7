"""Bodies: what the operator's API accepts, validated; a fault is a 400 that names the member."""

from datetime import datetime
from ipaddress import IPv4Network, IPv6Network
from typing import Annotated, Any, Literal, TypeVar
from uuid import UUID

import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from meterproxy.core.key import KeyPolicy
from meterproxy.core.money import parse_usd
from meterproxy.errors import ApiError, Case

T = TypeVar("T", bound=BaseModel)


def _nanos(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError('must be a decimal string in USD, such as "5.00"')  # noqa: TRY004  pydantic wants ValueError
    return parse_usd(value)


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not contain NUL")
    text.encode()
    return text


Text = Annotated[str, AfterValidator(_storable)]
Name = Annotated[Text, Field(min_length=1, max_length=200)]
Description = Annotated[Text, Field(max_length=2000)]
Amount = Annotated[int, BeforeValidator(_nanos)]
Words = Annotated[tuple[Annotated[Text, Field(min_length=1, max_length=200)], ...], Field(max_length=100)]


class Body(BaseModel):
    """What all bodies have in common: no unknown members, no silent conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class NewAccount(Body):
    name: Name


class NewCredit(Body):
    amount: Amount
    kind: Literal["grant", "purchase", "refund", "adjustment"]
    description: Description = ""
    idempotency_key: Annotated[Text, Field(min_length=1, max_length=200)] | None = None


class NewKeyBody(Body):
    account_id: UUID
    name: Name
    user_id: UUID | None = None
    description: Description = ""
    models: Words | None = None
    operations: Words | None = None
    networks: Annotated[tuple[IPv4Network | IPv6Network, ...], Field(max_length=100)] | None = None
    highest_request: Annotated[Amount, Field(gt=0)] | None = None
    expires_at: AwareDatetime | None = None

    @property
    def policy(self) -> KeyPolicy:
        """What the key may do."""
        return KeyPolicy(self.models, self.operations, self.networks, self.highest_request)

    @property
    def expiry(self) -> datetime | None:
        return self.expires_at


def read(kind: type[T], body: bytes) -> T:
    """Validate a JSON body. Raises ApiError MALFORMED, which names the first member at fault."""
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise ApiError(Case.MALFORMED, "The body is not valid JSON.") from error
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        param = ".".join(str(part) for part in problem["loc"]) or None
        text = problem["msg"].removeprefix("Value error, ")
        raise ApiError(Case.MALFORMED, f"{param or 'The body'}: {text}", param=param) from error
