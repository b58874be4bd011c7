"""Draws of one request: how much of each measure it holds, and how that changes while it runs. Pure."""

from typing import Final, NamedTuple

from meterproxy.core.hold import HoldRequest
from meterproxy.core.limit import Measure
from meterproxy.core.path import ByMeasure
from meterproxy.core.plan import Planned

MEASURED: Final = frozenset({Measure.AMOUNT, Measure.TOKENS})
"""Measures of which a request may need less than it asks for."""


class Lacking(NamedTuple):
    """The first limit of a request that has no room for it; `spent`: not even if every running request ended."""

    planned: Planned
    amount: int
    spent: bool


def drawn_by(request: HoldRequest) -> ByMeasure:
    """What a request holds."""
    return request.hold_nanos, 1, request.bound.tokens, 1, request.exposed_nanos


def extension(held: ByMeasure, more_nanos: int) -> ByMeasure:
    """How a hold changes that is to hold so much more: money is held that was only exposed before."""
    exposed = held[Measure.EXPOSURE]
    return max(more_nanos, -held[Measure.AMOUNT]), 0, 0, 0, max(-more_nanos, -exposed)


def opposite(change: ByMeasure) -> ByMeasure:
    """What takes a change back."""
    a, b, c, d, e = change
    return -a, -b, -c, -d, -e
