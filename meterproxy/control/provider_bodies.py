"""Bodies of providers and their keys: what operators say when they add or change one, validated.

Rules
-----
- What may be a secret is a `SecretStr`: no error, log or answer repeats it. A header is named by its number: what
  stands where its name should be may be one, too.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Final
from uuid import UUID

from pydantic import (
    AfterValidator,
    Field,
    SecretStr,
    StrictBool,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from meterproxy.catalog.catalog import known_prices
from meterproxy.config.values import Seconds
from meterproxy.control import bodies
from meterproxy.control.faults import sentence
from meterproxy.core.address import host_and_port
from meterproxy.core.provider import (
    BETWEEN_BYTES_SECONDS,
    CONNECT_SECONDS,
    FIRST_BYTE_SECONDS,
    HEADER_NAME,
    ProviderTerms,
    certificates,
    is_ours,
)
from meterproxy.errors import ConfigError
from meterproxy.proxy.dial import trusting
from meterproxy.store.providers import MOST_HEADERS

MOST_SECONDS: Final = 3600
MOST_CERTIFICATES_LETTERS: Final = 65_536


def _address(text: str) -> str:
    host_and_port(text)
    return text


def _printable(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text.isascii() or not text.isprintable() or " " in text:
        raise ValueError("must be printable ASCII without spaces")
    return secret


def _header_value(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value()
    if not text.isascii() or not text.isprintable() or text != text.strip():
        raise ValueError("must be printable ASCII without spaces around it")
    return secret


def _headers(given: Any, read: ValidatorFunctionWrapHandler) -> Mapping[str, Any]:
    try:
        return _header_names(read(given))
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        if not problem["loc"]:
            raise
        number = list(given).index(problem["loc"][0]) + 1
        text = sentence(problem["type"], problem["msg"], problem.get("ctx") or {})
        raise ValueError(f"number {number} {text}") from None


def _header_names(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    seen: set[str] = set()
    for number, name in enumerate(headers, 1):
        lower = name.lower()
        if not HEADER_NAME.fullmatch(name):
            raise ValueError(f"number {number} has no header's name")
        if lower == "authorization":
            raise ValueError("Authorization is sent with the provider's key: add that as a key")
        if is_ours(name):
            raise ValueError(f"{name} is ours to write")
        if lower in seen:
            raise ValueError(f"{name} is there twice")
        seen.add(lower)
    return headers


def _pattern(text: str) -> str:
    if "," in text or not text.isprintable():
        raise ValueError("must be a pattern without commas and line ends")  # which forms have between patterns
    return text


def _certificates(text: str) -> str:
    """Nothing but the certificates, so that what was pasted beside them is neither kept nor shown."""
    if "PRIVATE KEY" in text:
        raise ValueError("must be certificates only: there is a private key in it")
    found = "\n".join(certificates(text))
    if not found:
        raise ValueError("must be certificates in PEM, each from BEGIN CERTIFICATE to END CERTIFICATE")
    try:
        trusting(found)
    except ConfigError as error:
        raise ValueError("must be certificates that can be read") from error
    return found


Secret = Annotated[SecretStr, Field(min_length=1, max_length=1000), AfterValidator(_printable)]
HeaderValue = Annotated[SecretStr, Field(min_length=1, max_length=2000), AfterValidator(_header_value)]
HeaderName = Annotated[str, Field(min_length=1, max_length=100)]
ProviderName = Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Address = Annotated[str, Field(max_length=500), AfterValidator(_address)]
Prices = Annotated[bodies.Name, AfterValidator(known_prices)]
Pattern = Annotated[bodies.Name, AfterValidator(_pattern)]
Models = Annotated[tuple[Pattern, ...], Field(min_length=1, max_length=100)]
Certificates = Annotated[str, Field(max_length=MOST_CERTIFICATES_LETTERS), AfterValidator(_certificates)]
Patience = Annotated[Seconds, Field(le=MOST_SECONDS)]


class NewTimeouts(bodies.Body):
    """How long a provider is waited for: for a connection, for an answer's first byte, between its bytes."""

    connect_seconds: Patience = CONNECT_SECONDS
    first_byte_seconds: Patience = FIRST_BYTE_SECONDS
    between_bytes_seconds: Patience = BETWEEN_BYTES_SECONDS


class ChangedTimeouts(bodies.Body):
    """What is not named stays."""

    connect_seconds: Patience | None = None
    first_byte_seconds: Patience | None = None
    between_bytes_seconds: Patience | None = None


class NewProvider(bodies.Body):
    """A provider that speaks OpenAI's dialect; it serves once it has a key. `models` are patterns.

    `headers` are sent with every request; their values are never shown. `tls_ca` are certificates in PEM, of those to
    trust instead of the system's authorities.
    """

    name: ProviderName
    base_url: Address
    prices: Prices = "openai"
    models: Models = ("*",)
    headers: Annotated[dict[HeaderName, HeaderValue], Field(max_length=MOST_HEADERS), WrapValidator(_headers)] = Field(
        default_factory=dict
    )
    tls_ca: Certificates | None = None
    timeouts: NewTimeouts = NewTimeouts()

    def terms(self) -> ProviderTerms:
        """As they are kept."""
        return ProviderTerms(self.base_url, self.prices, self.models, self.tls_ca, **self.timeouts.model_dump())

    def header_values(self) -> dict[str, str]:
        """The headers, secrets and all."""
        return {name: text.get_secret_value() for name, text in self.headers.items()}


class ChangedProvider(bodies.Body):
    """What may change of a provider; what is not named stays, a header that is null is forgotten.

    At another host, or where authorities are trusted that were not, it begins without keys and headers. `tls_ca` null
    trusts the system's.
    """

    base_url: Address | None = None
    prices: Prices | None = None
    models: Models | None = None
    headers: Annotated[
        dict[HeaderName, HeaderValue | None], Field(max_length=2 * MOST_HEADERS), WrapValidator(_headers)
    ] = Field(default_factory=dict)
    tls_ca: Certificates | None = None
    timeouts: ChangedTimeouts = ChangedTimeouts()

    def changes(self) -> dict[str, Any]:
        """The terms that were named."""
        plain = {name: getattr(self, name) for name in ("base_url", "prices", "models")}
        named = {name: value for name, value in plain.items() if value is not None}
        trusted = {"tls_ca": self.tls_ca} if "tls_ca" in self.model_fields_set else {}
        return {**named, **trusted, **self.timeouts.model_dump(exclude_none=True)}

    def header_values(self) -> dict[str, str | None]:
        """The headers that were named, secrets and all."""
        return {name: None if text is None else text.get_secret_value() for name, text in self.headers.items()}


class NewProviderKey(bodies.Body):
    """A key of a provider; unless `test` is false it is kept only if the provider takes it."""

    provider_id: UUID
    secret: Secret
    name: Annotated[str, Field(max_length=200), bodies.Text] = ""
    test: StrictBool = True


class ChangedProviderKey(bodies.Body):
    """Another secret in the place of a key's."""

    secret: Secret
    test: StrictBool = True
