"""Addresses: the host and the port out of a base URL, as they go into a request's head and to who resolves names."""

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[0-9A-Za-z._:%-]+")
"""`urlsplit` and IDNA let through whatever is ASCII, and more in zones."""


def split(url: str) -> SplitResult:
    """A URL in its parts, of which the port is a number. Raises ValueError, with no password that the URL may have."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # which is read when it is asked for
    except ValueError as error:
        told = f": {error}" if url.isascii() and "@" not in url else ""  # it repeats what stands before the path
        raise ValueError(f"cannot be read{told}") from None
    return parts


def host_and_port(base_url: str) -> tuple[str, int]:
    """Where a base URL leads; names that are not ASCII as DNS has them.

    Raises:
        ValueError: not an http(s) URL with a host, or one with a user, a query, a fragment or what no URL has. The text
            is read after the URL's name.
    """
    parts = split(base_url)
    host, port = parts.hostname or "", parts.port
    try:
        if ":" not in host:
            host = host.encode("idna").decode("ascii")
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}") from error
    is_plain = base_url.isprintable() and parts.path.isascii() and not any(sign in base_url for sign in " ?#")
    if parts.username is not None or not is_plain:
        raise ValueError("must be a plain URL without user, query, fragment or unescaped characters")
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError("must begin with http:// or https://")
    if not host:
        raise ValueError("names no host")
    if not _HOST.fullmatch(host) or port == 0:
        raise ValueError("names a host or a port that cannot be")
    return host, port or DEFAULT_PORTS[parts.scheme]
