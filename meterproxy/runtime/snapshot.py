"""Snapshots: what each worker has counted, and what all of a host have counted together.

Rules
-----
- Counters and histograms are sums over every worker that this host has had since its start. One that is gone counts on
  with what was last heard of it, so no sum ever goes back while the host runs; at its restart all begin at zero.
- A gauge is about those that answer just now, put together as its own rule says.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import msgspec
from prometheus_client import Metric
from prometheus_client.exposition import generate_latest
from prometheus_client.samples import Sample

GAUGE: Final = "gauge"

Label = tuple[str, str]
Reading = tuple[str, tuple[Label, ...], float]
"""The sample's name, its labels, its value."""


class Together(StrEnum):
    """What a gauge of several workers comes to."""

    SUM = "sum"
    HIGHEST = "highest"
    LOWEST = "lowest"
    FARTHEST = "farthest"
    """From zero, with its sign."""


class Family(msgspec.Struct, array_like=True, frozen=True):
    """One metric as one worker, or a host, has it."""

    name: str
    text: str
    kind: str
    together: Together
    readings: list[Reading]


class Snapshot(msgspec.Struct, array_like=True, frozen=True):
    """All metrics of one worker at one moment; `life` tells it from others that had its slot."""

    slot: int
    life: str
    families: list[Family]


def family_of(metric: Metric, together: Together) -> Family:
    """A metric as it was collected."""
    readings = [(sample.name, tuple(sample.labels.items()), sample.value) for sample in metric.samples]
    return Family(metric.name, metric.documentation, metric.type, together, readings)


def exposition(family: Family) -> bytes:
    """A metric in Prometheus' text format."""
    metric = Metric(family.name, family.text, family.kind)
    metric.samples = [Sample(name, dict(labels), value) for name, labels, value in family.readings]
    return generate_latest(_One(metric))


class _One:
    """A registry of one family that was collected already; `generate_latest` asks no more of one."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric

    def collect(self) -> Iterable[Metric]:
        return (self._metric,)


class Tally:
    """What a host has counted."""

    def __init__(self) -> None:
        self._last: dict[int, Snapshot] = {}
        self._gone: list[Family] = []

    def hear(self, snapshot: Snapshot) -> None:
        """Take note of what a worker has counted by now."""
        before = self._last.get(snapshot.slot)
        if before is not None and before.life != snapshot.life:
            self._gone = merged([self._gone, _counted(before.families)])
        self._last[snapshot.slot] = snapshot

    def families(self, answered: Sequence[Snapshot]) -> list[Family]:
        """Everything together; `answered` are those who were there to be asked."""
        counted = [_counted(snapshot.families) for snapshot in self._last.values()]
        gauges = [[one for one in snapshot.families if one.kind == GAUGE] for snapshot in answered]
        return merged([*gauges, self._gone, *counted])


def _counted(families: Iterable[Family]) -> list[Family]:
    return [family for family in families if family.kind != GAUGE]


def merged(parts: Sequence[Sequence[Family]]) -> list[Family]:
    """Families of the same name put together, in the order in which they come first."""
    by_name: dict[str, list[Family]] = {}
    for part in parts:
        for family in part:
            by_name.setdefault(family.name, []).append(family)
    return [_put_together(families) for families in by_name.values()]


def _put_together(families: Sequence[Family]) -> Family:
    first = families[0]
    values: dict[tuple[str, tuple[Label, ...]], list[float]] = {}
    for family in families:
        for name, labels, value in family.readings:
            values.setdefault((name, labels), []).append(value)
    readings = [(name, labels, _value(first.together, several)) for (name, labels), several in values.items()]
    return msgspec.structs.replace(first, readings=readings)


def _value(together: Together, values: list[float]) -> float:
    match together:
        case Together.SUM:
            return sum(values)
        case Together.HIGHEST:
            return max(values)
        case Together.LOWEST:
            return min(values)
        case Together.FARTHEST:
            return max(values, key=abs)
