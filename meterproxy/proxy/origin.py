"""Origin: the address that a request comes from, through load balancers whose word is taken.

Rules
-----
- Nobody's word is taken but that of networks which the operator named: each of them tells whom it heard, in the last
  entry of `X-Forwarded-For`; the walk goes from right to left and ends at the first address that is not trusted.
- What cannot be read as an address is no address: a key that is bound to networks is refused then.
"""

from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from multidict import MultiMapping

Address = IPv4Address | IPv6Address
Networks = tuple[IPv4Network | IPv6Network, ...]

FORWARDED_FOR: Final = "X-Forwarded-For"
MOST_HOPS: Final = 32
HOSTS_BITS: Final = 64
"""What of an IPv6 address anybody chooses for himself (RFC 4291, section 2.5.1)."""
LONGEST: Final = 128
"""What is longer is no address, and is not remembered."""


def origin(peer: str, headers: MultiMapping[str], trusted: Networks) -> Address | None:
    """Where a request comes from; `peer` is the address of its connection."""
    address = read_address(peer)
    if not trusted or not _is_in(address, trusted):
        return address
    entries = ",".join(headers.getall(FORWARDED_FOR, ())).split(",")
    for entry in reversed(entries[-MOST_HOPS:]):
        if not entry.strip() and len(entries) == 1:
            break
        address = read_address(entry.strip())
        if not _is_in(address, trusted):
            break
    return address


def read_address(text: str) -> Address | None:
    """An address as connections and proxies write it: with a zone, mapped into IPv6, in brackets, with a port."""
    return _read_address(text) if len(text) <= LONGEST else None


@lru_cache(maxsize=4096)
def _read_address(text: str) -> Address | None:
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    try:
        address = ip_address(text.partition("%")[0])
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def neighbourhood(address: Address | None) -> str:
    """Who is counted as one where attempts are: whoever has one IPv6 address has some 2^64 of them."""
    if isinstance(address, IPv6Address):
        return str(ip_network((int(address) >> HOSTS_BITS << HOSTS_BITS, 128 - HOSTS_BITS)))
    return str(address or "")


def is_within(address: Address | None, networks: Networks | None) -> bool:
    """Whether an address is one of these; None stands for all there are."""
    return networks is None or _is_in(address, networks)


def _is_in(address: Address | None, networks: Networks) -> bool:
    return address is not None and any(address in network for network in networks)
