"""Addresses: the host and the port out of a base URL, as they go into a request's head and to who resolves names."""

import re
from typing import Final
from urllib.parse import urlsplit

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
_HOST: Final = re.compile(r"[0-9A-Za-z._:%-]+")
"""`urlsplit` and IDNA let through whatever is ASCII, and more in zones."""


def host_and_port(base_url: str) -> tuple[str, int]:
    """Where a base URL leads; names that are not ASCII as DNS has them.

    Raises:
        ValueError: not an http(s) URL with a host, or one with a user, a query, a fragment or what no URL has. The text
            is read after the URL's name.
    """
    try:
        parts = urlsplit(base_url)
        name, port = parts.hostname, parts.port
        host = name or ""
        if ":" not in host:
            host = host.encode("idna").decode("ascii")
    except ValueError as error:
        raise ValueError(f"cannot be read: {error}") from error
    is_plain = base_url.isprintable() and parts.path.isascii() and not any(sign in base_url for sign in " ?#")
    if parts.username is not None or not is_plain:  # first, as other faults repeat the URL
        raise ValueError("must be a plain URL without user, query, fragment or unescaped characters")
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError(f"must begin with http:// or https://: {base_url!r}")
    if not host:
        raise ValueError(f"names no host: {base_url!r}")
    if not _HOST.fullmatch(host) or port == 0:
        raise ValueError(f"names a host or a port that cannot be: {base_url!r}")
    return host, port or DEFAULT_PORTS[parts.scheme]
