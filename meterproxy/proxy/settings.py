"""Settings of the exchange path, plain and frozen; `service` fills them from the configuration."""

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangeSettings:
    """What an operator can set about how requests are answered.

    `adaptive`: streams may hold a part of their bound and more as they grow, within their account's exposure.
    `trusted_proxies` are networks whose word is taken for where a request comes from.
    `leaver_seconds` and `leavers` bound how long and how many streams are read on after their clients left.
    `count_seconds` bounds how long an ending waits for the tokenizer. `buffered_bytes` is the largest answer that is
    read whole before it is passed on.

    Of requests with an `Idempotency-Key`: `kept_bytes` is the largest answer that is kept, `recordings_bytes` what all
    running ones may take of memory; `key_wait_seconds` and `keys_waiting` bound how long and how many wait for one that
    is being answered.
    """

    trusted_proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    max_body_bytes: int = 64 << 20
    bodies_bytes: int = 512 << 20
    markup_ppm: int = 1_000_000
    unpriced: Literal["refuse", "free"] = "refuse"
    out_of_credit_status: Literal[429, 402] = 429
    on_disconnect: Literal["drain", "cancel"] = "drain"
    leaver_seconds: float = 120.0
    leavers: int = 256
    hold_max_share_ppm: int = 250_000
    adaptive: bool = False
    max_seconds: float = 3600.0
    keepalive_seconds: float = 0.0
    progress_seconds: float = 10.0
    count_seconds: float = 2.0
    buffered_bytes: int = 8 << 20
    kept_bytes: int = 4 << 20
    recordings_bytes: int = 128 << 20
    key_wait_seconds: float = 60.0
    keys_waiting: int = 256
