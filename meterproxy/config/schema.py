"""Schema: every setting there is, with its default; `config.example.yaml` says the same to people.

Rules
-----
- An attribute is named as its key; where a decimal became an integer, the attribute carries the unit (`markup_ppm`).
- Models are frozen and refuse unknown keys.
- Secrets are `SecretStr`: they cannot be printed or logged by accident.
"""

import base64
import binascii
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    model_validator,
)

from meterproxy.config.billing import Billing
from meterproxy.config.limits import LimitDefaults
from meterproxy.config.mail import MailTerms
from meterproxy.config.openid import OpenIdTerms
from meterproxy.config.section import Section
from meterproxy.config.source import Settings, read_settings
from meterproxy.config.values import (
    Address,
    BaseUrl,
    DatabaseUrl,
    Factor,
    IntervalMs,
    Listen,
    Networks,
    NotNegative,
    Positive,
    PublicUrl,
    Rate,
    Seconds,
    SecondsOrOff,
    Share,
    Size,
    Words,
    Workers,
    later,
)
from meterproxy.core.provider import (
    BETWEEN_BYTES_SECONDS,
    CONNECT_SECONDS,
    FIRST_BYTE_SECONDS,
    HEADER_NAME,
    is_ours,
)
from meterproxy.core.usage import KINDS
from meterproxy.errors import ConfigError

MASTER_KEY_BYTES = 32
SHORTEST_SIGNING_SECRET = 32
LEAST_RETENTION_DAYS = 35
"""This month and the one before are always whole, and events may be logged for thirty days."""


def _check_directory(value: Path) -> Path:
    if str(value) in {"", "."} or "\0" in str(value):
        raise ValueError("must name a directory of its own")
    return value


def _check_master_key(value: SecretStr) -> SecretStr:
    try:
        length = len(base64.b64decode(value.get_secret_value(), validate=True))
    except (binascii.Error, ValueError):
        length = 0
    if length != MASTER_KEY_BYTES:
        raise ValueError("must be 32 random bytes in base64: openssl rand -base64 32")
    return value


def _check_kinds(value: Mapping[str, int]) -> Mapping[str, int]:
    unknown = [kind for kind in value if kind not in KINDS]
    if unknown:
        raise ValueError(f"unknown kind {', '.join(unknown)}; kinds are {', '.join(KINDS)}")
    return value


def _check_headers(value: Mapping[str, SecretStr]) -> Mapping[str, SecretStr]:
    bad = [
        name
        for name, text in value.items()
        if not (HEADER_NAME.fullmatch(name) and text.get_secret_value().isprintable())
    ]
    if bad:
        raise ValueError(f"not a header: {', '.join(map(repr, bad))}")
    ours = [name for name in value if is_ours(name)]
    if ours:
        raise ValueError(f"{', '.join(ours)}: each request has its own")
    return value


def _check_printable(value: SecretStr) -> SecretStr:
    text = value.get_secret_value()
    if text != text.strip() or any(not " " <= letter <= "~" for letter in text):
        raise ValueError("must be printable ASCII without spaces or line ends around it")
    return value


def _check_signing(value: SecretStr) -> SecretStr:
    """HS256 wants a key no shorter than what it makes (RFC 7518, section 3.2); whoever guesses it is everybody."""
    if len(_check_printable(value).get_secret_value()) < SHORTEST_SIGNING_SECRET:
        raise ValueError(f"must have at least {SHORTEST_SIGNING_SECRET} characters, as of: openssl rand -hex 32")
    return value


Secret = Annotated[SecretStr, Field(min_length=1), AfterValidator(_check_printable)]
SigningSecret = Annotated[SecretStr, AfterValidator(_check_signing)]
MasterKey = Annotated[SecretStr, AfterValidator(_check_master_key)]
Status = Annotated[Literal[429, 402], BeforeValidator(lambda value: int(value) if value in {"429", "402"} else value)]


class Timeouts(Section):
    connect_seconds: Seconds = CONNECT_SECONDS
    first_byte_seconds: Seconds = FIRST_BYTE_SECONDS
    between_bytes_seconds: Seconds = BETWEEN_BYTES_SECONDS


class Provider(Section):
    """A service that requests are forwarded to."""

    dialect: Annotated[Literal["openai", "anthropic", "azure", "cloudflare"], later("openai")] = "openai"
    base_url: BaseUrl
    api_key: Secret | None = None
    models: Words = ("*",)
    prices: Annotated[str, Field(min_length=1)] = "openai"
    headers: Annotated[Mapping[str, SecretStr], AfterValidator(_check_headers)] = {}
    tls_ca_file: Path | None = None
    timeouts: Timeouts = Timeouts()

    @model_validator(mode="after")
    def _has_one_credential(self) -> Self:
        if self.api_key is not None and any(name.lower() == "authorization" for name in self.headers):
            raise ValueError("api_key and a header Authorization would both be sent: set one of them")
        return self


class Model(Section):
    """What is set for one model name."""

    route: Annotated[str | None, later(None)] = None
    max_output_tokens: Positive | None = None
    context_tokens: Positive | None = None
    price: Annotated[Mapping[str, Rate], AfterValidator(_check_kinds)] | None = None


class Control(Section):
    listen: Annotated[Listen | None, later(None)] = None


class Hold(Section):
    policy: Literal["worst_case", "adaptive"] = "worst_case"
    wait_ms: NotNegative = 1000
    max_share_ppm: Share = Field(default=250_000, alias="max_share")


class Adaptive(Section):
    exposure: Rate | None = None


class Exchange(Section):
    max_seconds: Seconds = 3600.0


class Journal(Section):
    fsync_ms: IntervalMs = 50
    retain_hours: NotNegative = 24
    segment_bytes: Annotated[Size, Field(ge=2**20)] = 64 * 2**20
    max_bytes: Size = 8 * 2**30


class Settle(Section):
    interval_ms: IntervalMs = 200


class Lease(Section):
    ttl_seconds: Seconds = 30.0


class Recovery(Section):
    open_hold: Literal["charge_delivered", "release", "charge_hold"] = "charge_delivered"


class Stream(Section):
    keepalive_seconds: SecondsOrOff = 0.0


class Usage(Section):
    retention_days: Annotated[Positive, Field(ge=LEAST_RETENTION_DAYS)] | None = None


class Log(Section):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "json", "text"] = "auto"


class Config(Section):
    """Everything an operator can set, checked."""

    listen: Listen = Address("127.0.0.1", 8080)
    control: Control = Control()
    workers: Workers = 1
    data_dir: Annotated[Path, AfterValidator(_check_directory)] = Path(".meterproxy")
    database_url: DatabaseUrl | None = None
    database_direct_url: DatabaseUrl | None = None

    admin_token: Secret | None = None
    master_key: MasterKey | None = None
    master_key_previous: MasterKey | None = None
    jwt_secret: SigningSecret | None = None

    registration: Literal["open", "invitation", "closed"] = "closed"
    max_body_bytes: Size = 64 * 2**20
    trusted_proxies: Networks = ()
    public_url: PublicUrl | None = None
    cors_origins: Annotated[Words, later()] = ()
    out_of_credit_status: Status = 429
    on_disconnect: Literal["drain", "cancel"] = "drain"
    unpriced: Literal["refuse", "free"] = "refuse"
    drain_seconds: Seconds = 30.0
    default_max_output_tokens: Positive = 16_384
    markup_ppm: Factor = Field(default=1_000_000, alias="markup")
    passthrough: Annotated[Words, later()] = ()

    providers: Mapping[str, Provider] = {}
    models: Mapping[str, Model] = {}

    hold: Hold = Hold()
    adaptive: Adaptive = Adaptive()
    exchange: Exchange = Exchange()
    journal: Journal = Journal()
    settle: Settle = Settle()
    lease: Lease = Lease()
    recovery: Recovery = Recovery()
    stream: Stream = Stream()
    usage: Usage = Usage()
    limits: LimitDefaults = LimitDefaults()
    openid: OpenIdTerms = OpenIdTerms()
    mail: MailTerms = MailTerms()
    billing: Billing = Billing()
    log: Log = Log()

    @model_validator(mode="after")
    def _retains_what_journals_tell(self) -> Self:
        days = self.usage.retention_days
        if days is not None and days * 24 <= self.journal.retain_hours:
            raise ValueError("usage.retention_days must be longer than journal.retain_hours")
        return self

    @model_validator(mode="after")
    def _exposes_so_much(self) -> Self:
        if self.hold.policy == "adaptive" and not self.adaptive.exposure:
            raise ValueError('hold.policy "adaptive" needs adaptive.exposure, in USD and above zero')
        return self

    @model_validator(mode="after")
    def _mails_links(self) -> Self:
        if self.mail.host is not None and self.public_url is None:
            raise ValueError("mail.host needs public_url: the links in letters begin with it")
        return self

    @property
    def exposure_nanos(self) -> int | None:
        """What adaptive holds of one account may leave unheld; None where all is held."""
        return self.adaptive.exposure if self.hold.policy == "adaptive" else None

    @property
    def doubts(self) -> list[str]:
        """What would serve, and is most likely not meant."""
        doubts = []
        if (self.public_url or "").startswith("https:") and not self.trusted_proxies:
            doubts.append(
                "public_url is https, so something in front ends TLS, but trusted_proxies is empty: all people have "
                "its address, and are slowed down together when somebody guesses passwords"
            )
        if self.mail.is_overheard:
            doubts.append("mail.tls is none: whoever listens on the way to mail.host can use links that set passwords")
        return doubts

    @classmethod
    def load(
        cls, path: Path | None, environ: Mapping[str, str] = os.environ, overrides: Mapping[str, str] | None = None
    ) -> Self:
        """Read the file and the environment; `overrides` are top-level settings as the command line gave them.

        Raises:
            ConfigError: names every problem with its path, one a line.
        """
        settings = read_settings(path, environ, overrides or {})
        config = None
        try:
            config = cls.model_validate(settings.tree)
        except ValidationError as error:
            for problem in error.errors(include_url=False, include_input=False):
                at = tuple(str(part) for part in problem["loc"])
                settings.problems.setdefault(at, _message(problem["type"], problem["msg"]))
        if settings.problems or config is None:
            raise ConfigError(_report(path, settings))
        return config

    def public(self) -> dict[str, Any]:
        """The configuration as JSON-able values under its keys, secrets hidden."""
        return self.model_dump(mode="json", by_alias=True)


_MESSAGES = {
    "extra_forbidden": "unknown setting",
    "missing": "must be set",
    "model_type": "must be a mapping",
    "mapping_type": "must be a mapping",
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "string_too_short": "must not be empty",
    "too_short": "must not be empty",
}


def _message(type_: str, text: str) -> str:
    return _MESSAGES.get(type_) or text.removeprefix("Value error, ").replace("Input should be", "must be")


def _report(path: Path | None, settings: Settings) -> str:
    lines = sorted(f"  {_place(settings, at)}: {message}" for at, message in settings.problems.items())
    count = "1 problem" if len(lines) == 1 else f"{len(lines)} problems"
    return "\n".join((f"{count} in {path or 'the environment'}", *lines))


def _place(settings: Settings, at: tuple[str, ...]) -> str:
    """The path of a setting, with the variable or option that set it or something below it."""
    by = [name for of, name in settings.variables.items() if at and of[: len(at)] == at]
    return f"{'.'.join(at) or 'configuration'}{f' ({by[0]})' if by else ''}"
