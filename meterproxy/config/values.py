"""Values: how a setting's text becomes a number, an address or a list, with a message that says what was wrong.

Rules
-----
- Decimals never pass through a float: the file's reader leaves them as text, and the parsers here make integers.
- A setting whose feature this release lacks exists with its default only; any other value is refused by `later`.
"""

import re
from collections.abc import Collection
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Annotated, Any, Final, NamedTuple
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, SecretStr

from meterproxy.config.processors import usable_processors
from meterproxy.core.address import host_and_port, split
from meterproxy.core.money import PPM, format_usd, parse_usd


class Address(NamedTuple):
    """Where a socket listens; port 0 lets the system choose."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


MOST_WORKERS: Final = 1024
LONGEST_INTERVAL_MS: Final = 60_000
"""Of what is done again and again for safety's sake: what it may lose otherwise."""

_ADDRESS: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^\s:\[\]]*)):(\d{1,5})", re.ASCII)
_SIZE: Final = re.compile(r"(\d+) ?(KiB|MiB|GiB)?", re.ASCII)
_SIZES: Final = {None: 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_DECIMAL: Final = re.compile(r"(\d{1,9})(?:\.(\d{1,6}))?", re.ASCII)
_PERCENT: Final = re.compile(r"(\d{1,3})(?:\.(\d{1,4}))? ?%", re.ASCII)


def parse_address(value: object) -> Address:
    """Read "host:port" or "[address]:port"; an empty host means every interface."""
    if isinstance(value, Address):
        return value
    match = _ADDRESS.fullmatch(str(value))
    if match is None or int(match[3]) > 65535:
        raise ValueError("must be host:port, like 127.0.0.1:8080 or [::1]:8080")
    return Address(match[1] or match[2] or "0.0.0.0", int(match[3]))


def parse_size(value: object) -> object:
    """Read a number of bytes, or one with a unit: "64 MiB"."""
    match = _SIZE.fullmatch(value) if isinstance(value, str) else None
    return value if match is None else int(match[1]) * _SIZES[match[2]]


def _scaled(match: re.Match[str], digits: int) -> int:
    whole, fraction = match[1], match[2] or ""
    return int(whole + fraction.ljust(digits, "0"))


def parse_factor(value: object) -> int:
    """Read a decimal factor ("1.2") as parts per million; a bare integer in YAML is a factor too."""
    match = _DECIMAL.fullmatch(str(value))
    if match is None or isinstance(value, bool | float):
        raise ValueError('must be a decimal with at most six places, like "1.2"')
    return _scaled(match, 6)


def parse_share(value: object) -> int:
    """Read a share of a whole ("25%" or "0.25") as parts per million."""
    match = _PERCENT.fullmatch(str(value))
    ppm = parse_factor(value) if match is None else _scaled(match, 4)
    if not 0 < ppm <= PPM:
        raise ValueError("must be a share above 0 and at most 100%")
    return ppm


def format_ppm(ppm: int) -> str:
    """Write parts per million as a decimal ("1.2")."""
    whole, rest = divmod(ppm, PPM)
    return f"{whole}.{rest:06d}".rstrip("0").rstrip(".")


def parse_rate(value: object) -> int:
    """Read a rate in USD ("2.50") as nanodollars; never negative."""
    if isinstance(value, bool | float):
        raise ValueError('must be an amount in USD, quoted, like "2.50"')  # noqa: TRY004 - pydantic collects ValueErrors
    nanos = parse_usd(str(value))
    if nanos < 0:
        raise ValueError("must not be negative")
    return nanos


def parse_list(value: object) -> object:
    """Read a list; text (as from the environment) is one item per comma."""
    if isinstance(value, str):
        return tuple(item.strip() for item in value.split(",") if item.strip())
    return value


def parse_base_url(value: str) -> str:
    """Check the URL that an OpenAI SDK would be given; a slash at its end goes away."""
    url = split(value)
    if url.scheme not in {"http", "https"} or not url.hostname:
        raise ValueError("must be an http:// or https:// URL, like https://api.openai.com/v1")
    if url.username is not None or url.query or url.fragment:
        raise ValueError("must have no user, query or fragment; credentials go into api_key")
    host_and_port(value)
    return value.rstrip("/")


def parse_public_url(value: str) -> str:
    """Check the URL at which people reach the service; a slash at its end goes away."""
    url = parse_base_url(value)
    if urlsplit(url).path:
        raise ValueError("must have no path: pages link to one another from the root")
    return url


def parse_database_url(value: SecretStr) -> SecretStr:
    """Check that a database URL is PostgreSQL's."""
    if urlsplit(value.get_secret_value()).scheme not in {"postgresql", "postgres"}:
        raise ValueError("must be a PostgreSQL URL, like postgresql://user:password@host:5432/database")
    return value


def parse_workers(value: object) -> object:
    """Read a number of workers; "auto" is one for each CPU that this process may use."""
    return usable_processors() if value == "auto" else value


def _not_boolean(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must be a number")  # noqa: TRY004 - pydantic collects ValueErrors
    return value


def parse_networks(value: object) -> object:
    """Read networks, or single addresses: "10.0.0.0/8, 192.168.1.1"."""
    listed = parse_list(value)
    if not isinstance(listed, list | tuple):
        return listed
    try:
        return tuple(ip_network(str(network)) for network in listed)
    except ValueError as error:
        raise ValueError(f"must be networks such as 10.0.0.0/8: {error}") from error


def later(*supported: object) -> AfterValidator:
    """Refuse every value but those that this release supports; `Collection`s are supported empty only."""

    def check(value: Any) -> Any:
        if value in supported or (not supported and isinstance(value, Collection) and not value):
            return value
        raise ValueError(f"not supported yet; leave it {_unset(supported)}")

    return AfterValidator(check)


def _unset(supported: tuple[object, ...]) -> str:
    named = [str(value) for value in supported if value is not None]
    return f"at {' or '.join(named)}" if named else "unset"


Positive = Annotated[int, BeforeValidator(_not_boolean), Field(gt=0)]
Workers = Annotated[int, BeforeValidator(_not_boolean), BeforeValidator(parse_workers), Field(gt=0, le=MOST_WORKERS)]
IntervalMs = Annotated[int, BeforeValidator(_not_boolean), Field(gt=0, le=LONGEST_INTERVAL_MS)]
NotNegative = Annotated[int, BeforeValidator(_not_boolean), Field(ge=0)]
Seconds = Annotated[float, BeforeValidator(_not_boolean), Field(gt=0, allow_inf_nan=False)]
SecondsOrOff = Annotated[float, BeforeValidator(_not_boolean), Field(ge=0, allow_inf_nan=False)]
Size = Annotated[int, BeforeValidator(_not_boolean), BeforeValidator(parse_size), Field(gt=0)]
Factor = Annotated[int, BeforeValidator(parse_factor), PlainSerializer(format_ppm)]
Share = Annotated[int, BeforeValidator(parse_share), PlainSerializer(format_ppm)]
Rate = Annotated[int, BeforeValidator(parse_rate), PlainSerializer(format_usd)]
Listen = Annotated[Address, BeforeValidator(parse_address), PlainSerializer(str)]
Words = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], BeforeValidator(parse_list)]
BaseUrl = Annotated[str, AfterValidator(parse_base_url)]
PublicUrl = Annotated[str, AfterValidator(parse_public_url)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(parse_database_url)]
Networks = Annotated[
    tuple[IPv4Network | IPv6Network, ...],
    BeforeValidator(parse_networks),
    PlainSerializer(lambda networks: [str(network) for network in networks]),
]
