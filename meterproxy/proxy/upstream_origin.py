"""Where a provider lives, and how patient and how greedy we are with it."""

from dataclasses import dataclass
from typing import Self
from urllib.parse import urlsplit

from meterproxy.core.address import DEFAULT_PORTS, host_and_port
from meterproxy.core.provider import BETWEEN_BYTES_SECONDS, CONNECT_SECONDS, FIRST_BYTE_SECONDS
from meterproxy.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """One provider's base URL, taken apart, with the limits of the connections to it.

    `path_prefix` has no slash at its end. With `tls_ca_file`, or `tls_ca` (the same in PEM), only the authorities in it
    are trusted.
    """

    scheme: str
    host: str
    port: int
    path_prefix: str = ""
    tls_ca_file: str | None = None
    tls_ca: str | None = None
    connect_seconds: float = CONNECT_SECONDS
    first_byte_seconds: float = FIRST_BYTE_SECONDS
    between_bytes_seconds: float = BETWEEN_BYTES_SECONDS
    idle_seconds: float = 30.0
    age_seconds: float = 300.0
    max_connections: int = 6000
    max_waiting: int = 1000
    wait_seconds: float = 5.0

    @classmethod
    def from_base_url(
        cls,
        base_url: str,
        *,
        tls_ca_file: str | None = None,
        tls_ca: str | None = None,
        connect_seconds: float = CONNECT_SECONDS,
        first_byte_seconds: float = FIRST_BYTE_SECONDS,
        between_bytes_seconds: float = BETWEEN_BYTES_SECONDS,
        max_connections: int = 6000,
        max_waiting: int = 1000,
    ) -> Self:
        """Take a base URL apart, such as `https://api.openai.com/v1`.

        Raises:
            ConfigError: not an http(s) URL with a host, or one with a user, a query, a fragment or what no URL has.
        """
        try:
            host, port = host_and_port(base_url)
        except ValueError as error:
            raise ConfigError(f"base_url {error}") from error
        parts = urlsplit(base_url)
        return cls(
            scheme=parts.scheme,
            host=host,
            port=port,
            path_prefix=parts.path.rstrip("/"),
            tls_ca_file=tls_ca_file,
            tls_ca=tls_ca,
            connect_seconds=connect_seconds,
            first_byte_seconds=first_byte_seconds,
            between_bytes_seconds=between_bytes_seconds,
            max_connections=max_connections,
            max_waiting=max_waiting,
        )

    @property
    def authority(self) -> str:
        """What the `Host` header says: the port only where it is not the scheme's own."""
        host = bracketed(self.host)
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"


def bracketed(host: str) -> str:
    """A host as URLs and `Host` headers write it: IPv6 addresses in brackets."""
    return f"[{host}]" if ":" in host else host
