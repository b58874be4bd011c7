"""Providers: the terms on which one is reached, as values, and when other terms would send its secrets elsewhere.

Rules
-----
- A secret (key or header) was given for one server. It does not follow a provider to another host, nor to whoever is
  believed to be that host by an authority that was not trusted when the secret was given.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

CONNECT_SECONDS: Final = 5.0
FIRST_BYTE_SECONDS: Final = 600.0
BETWEEN_BYTES_SECONDS: Final = 300.0

_OUR_HEADERS: Final = frozenset(
    "host content-length content-type content-encoding accept-encoding connection transfer-encoding keep-alive"
    " proxy-authorization proxy-connection te trailer upgrade expect idempotency-key".split()
)
_OUR_PREFIX: Final = "x-meterproxy-"
HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CERTIFICATE: Final = re.compile(r"-----BEGIN CERTIFICATE-----[A-Za-z0-9+/=\s]+-----END CERTIFICATE-----")


@dataclass(frozen=True, slots=True)
class ProviderTerms:
    """Where a provider is, how it is reached and what it is asked for.

    Args:
        base_url: what an OpenAI SDK would be given.
        prices: the catalog's id of who sets its prices.
        models: globs of the models that it serves.
        tls_ca: certificates in PEM of the authorities to trust instead of the system's.
    """

    base_url: str
    prices: str = "openai"
    models: tuple[str, ...] = ("*",)
    tls_ca: str | None = None
    connect_seconds: float = CONNECT_SECONDS
    first_byte_seconds: float = FIRST_BYTE_SECONDS
    between_bytes_seconds: float = BETWEEN_BYTES_SECONDS

    @property
    def server(self) -> str:
        """Whom secrets are sent to: scheme, host and port as they are written."""
        scheme, host, *_ = urlsplit(self.base_url)
        return f"{scheme}://{host}"

    def may_keep_secrets_of(self, other: "ProviderTerms") -> bool:
        """Whether what was given for those terms is sent to nobody else under these."""
        return self.server == other.server and _trusts_no_more(self.tls_ca, other.tls_ca)


def is_ours(name: str) -> bool:
    """Whether each request to a provider has this header of its own, or must not have it."""
    return name.lower() in _OUR_HEADERS or name.lower().startswith(_OUR_PREFIX)


def certificates(text: str) -> tuple[str, ...]:
    """The certificates in a text, each in PEM; what stands between them is left out."""
    return tuple(_CERTIFICATE.findall(text))


def _trusts_no_more(ours: str | None, theirs: str | None) -> bool:
    if ours is None or theirs is None:
        return ours == theirs
    return set(certificates(ours)) <= set(certificates(theirs))
