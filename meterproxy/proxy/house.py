"""The house: what all exchanges of one worker share, and what they need of the layers beside the proxy."""

from dataclasses import dataclass, field
from typing import Self

from meterproxy.proxy.authorize import Authorizer
from meterproxy.proxy.background import Background
from meterproxy.proxy.brakes import Brakes
from meterproxy.proxy.client import Room
from meterproxy.proxy.free import FreeHouse
from meterproxy.proxy.idempotency import Idempotency
from meterproxy.proxy.models import Models
from meterproxy.proxy.ownership import Ownership
from meterproxy.proxy.ports import (
    Catalog,
    Clock,
    Directory,
    DurableHolds,
    IdempotencyStore,
    Ledger,
    Observer,
    Owners,
    TokenCounter,
)
from meterproxy.proxy.provider import Provider
from meterproxy.proxy.route import Router
from meterproxy.proxy.settings import ExchangeSettings
from meterproxy.proxy.stream import Leavers
from meterproxy.proxy.texts import TextPool
from meterproxy.proxy.turns import Turns


@dataclass(frozen=True, slots=True)
class Ports:
    """What the exchanges of one worker need of the rest of meterproxy; `brakes` are what an operator has stopped."""

    clock: Clock
    directory: Directory
    ledger: Ledger
    counter: TokenCounter
    catalog: Catalog
    observer: Observer
    owners: Owners
    durable: DurableHolds
    idempotency: IdempotencyStore
    brakes: Brakes = field(default_factory=Brakes)


@dataclass(frozen=True, slots=True)
class House:
    """What the exchanges of one worker share.

    Args:
        room: memory that the bodies of all requests may take together.
        pool: memory for texts that may have to be counted.
        leavers: streams that are read on for clients that left.
        turns: where large bodies and answers are read.
    """

    settings: ExchangeSettings
    ports: Ports
    router: Router
    models: Models
    ownership: Ownership
    authorizer: Authorizer
    free: FreeHouse
    idempotency: Idempotency
    room: Room
    pool: TextPool
    leavers: Leavers
    turns: Turns

    @classmethod
    def built(
        cls, settings: ExchangeSettings, ports: Ports, providers: tuple[Provider, ...], room: Room | None = None
    ) -> Self:
        """A house of these parts; `room` is there where others share it."""
        router = Router(providers, ports.catalog, unpriced_free=settings.unpriced == "free")
        pool = TextPool()
        turns = Turns()
        background = Background(ports.durable, ports.clock, turns)
        return cls(
            settings,
            ports,
            router,
            Models(router),
            Ownership(ports.owners, turns),
            Authorizer(ports.ledger, ports.counter, settings, turns),
            FreeHouse(router, ports.clock, ports.owners, background, pool, turns, settings.keepalive_seconds),
            Idempotency(ports.idempotency, ports.observer, settings),
            room or Room(settings.bodies_bytes),
            pool,
            Leavers(settings.leavers),
            turns,
        )
