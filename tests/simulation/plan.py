"""What a seed stands for: how large the fleet is, what its clients do, and which faults come when."""

from dataclasses import dataclass, field
from random import Random
from typing import NamedTuple

FAULTS = (
    ("kill", 6), ("stop", 2), ("stall", 4), ("cut_power", 3), ("cut_off", 3), ("outage", 3), ("fail_over", 2),
    ("slow", 2), ("lossy", 4), ("grant", 4), ("lower", 3), ("leave", 1), ("refuse", 2), ("bequeath", 3),
)  # fmt: skip
"""What may happen, and in which measure."""


class Terms(NamedTuple):
    """A limit beside credit; its window is a minute, or there is none."""

    measure: str
    cap: int
    by_minute: bool
    of_key: bool


class Fault(NamedTuple):
    """At an instant, something happens to whom `which` says, for so long."""

    at_us: int
    kind: str
    which: int
    for_us: int
    amount: int

    @property
    def lag_us(self) -> int:
        """How far behind the standby is that takes over: every other one not at all."""
        return min(self.for_us // 4, self.at_us) if self.which % 2 else 0


@dataclass(frozen=True)
class Plan:
    """Everything that a seed decides before anything has happened."""

    hosts: int
    slots: int
    accounts: int
    clients: int
    credit_tokens: int
    usual_tokens: int
    ttl_seconds: float
    wait_ms: int
    settle_ms: int
    fsync_ms: int
    think_seconds: float
    answer_seconds: float
    bursts: float
    progress: float
    releases: float
    defers: float
    overruns: float
    lost: float
    abandons: float
    run_us: int
    segment_bytes: int
    limits: tuple[Terms, ...] = ()
    faults: list[Fault] = field(default_factory=list)
    retain_seconds: float = 86400.0
    stop_seconds: float = 10.0
    grows: float = 0.0
    """How many requests are held in part, and hold more as their answers grow."""
    exposure_tokens: int = 0

    def tokens(self, random: Random) -> int:
        """How much a client asks for: mostly little, now and then nearly all of it."""
        if random.random() < 0.05:
            return random.randint(0, self.credit_tokens)
        return random.randint(0, 2 * self.usual_tokens)


def plan_of(seed: int) -> Plan:
    """The same plan for the same seed, always."""
    random = Random(f"plan {seed}")
    choose = random.choice
    run_us = random.randint(700_000, 3_500_000)
    credit = choose((20, 200, 2_000, 20_000, 200_000))
    faults = _faults(random, run_us, credit)
    fails_over = any(fault.kind == "fail_over" for fault in faults)
    return Plan(
        hosts=choose((1, 2, 2, 3)),
        slots=choose((1, 1, 2, 2)),
        accounts=choose((1, 1, 2, 3, 10)),
        clients=choose((1, 2, 3, 5)),
        credit_tokens=credit,
        usual_tokens=max(credit // choose((3, 10, 50, 300)), 1),
        ttl_seconds=choose((0.6, 1.5, 3.0, 3.0 if fails_over else 30.0)),
        wait_ms=choose((200, 1000)),
        settle_ms=choose((50, 200, 200, 1000)),
        fsync_ms=choose((50, 200, 500)),
        think_seconds=choose((0.02, 0.1, 0.4)),
        answer_seconds=choose((0.01, 0.1, 0.5)),
        bursts=choose((0.0, 0.0, 0.1)),
        progress=choose((0.0, 0.3)),
        releases=choose((0.05, 0.3)),
        defers=choose((0.0, 0.0, 0.2)),
        overruns=choose((0.0, 0.1)),
        lost=choose((0.0, 0.0, 0.01, 0.05)),
        abandons=choose((0.0, 0.5)),
        run_us=run_us,
        segment_bytes=choose((16, 24, 64)) * 1024,
        limits=_limits(random, credit),
        faults=faults,
        grows=choose((0.0, 0.0, 0.5)),
        exposure_tokens=max(credit // choose((2, 10, 100)), 1),
    )


def _limits(random: Random, credit: int) -> tuple[Terms, ...]:
    """What each account has beside its credit: mostly nothing, else up to all measures at once."""
    if random.random() < 0.5:
        return ()
    kinds = (
        Terms("requests", random.choice((1, 5, 20, 100)), True, random.random() < 0.5),
        Terms("tokens", credit // random.choice((1, 3, 10)) + 1, True, random.random() < 0.5),
        Terms("concurrent", random.choice((1, 2, 5)), False, random.random() < 0.5),
        Terms("amount", (credit // random.choice((1, 2, 5)) + 1) * 1000, random.random() < 0.5, random.random() < 0.5),
    )
    return tuple(random.sample(kinds, random.choice((1, 1, 2, 4))))


def _faults(random: Random, run_us: int, credit: int) -> list[Fault]:
    kinds, weights = zip(*FAULTS, strict=True)
    refuses = random.random() < 0.3
    faults = []
    for kind in random.choices(kinds, weights, k=random.choice((0, 1, 2, 3, 5, 8))):
        if (kind == "refuse") != refuses and kind in {"refuse", "cut_power"}:
            continue  # what is in doubt on a disk and a power cut together have no bound that could be checked
        faults.append(
            Fault(
                random.randint(100_000, run_us),
                kind,
                random.randrange(1000),
                random.choice((50_000, 400_000, 1_500_000, 4_000_000)),
                random.randint(1, credit),
            )
        )
    return sorted(faults)
