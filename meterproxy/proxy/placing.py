"""Placing where holds are adaptive: of all that a request may cost or, where that may be, of a part that grows.

Rules
-----
- What is placed in part leaves the rest unheld, within the account's exposure. Where that is taken all is held.
- A lack of exposure is never told as credit that is gone: it passes.
"""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final, NamedTuple

from meterproxy.core.bound import ModelFacts, RequestFacts
from meterproxy.core.hold import HoldRequest
from meterproxy.errors import ApiError, Case, NoExposure
from meterproxy.proxy.adaptive import Extension, Usual, in_part, may_be_held_in_part
from meterproxy.proxy.ports import Hold, Ledger, TokenCounter
from meterproxy.proxy.settings import ExchangeSettings


class Placed(NamedTuple):
    """A hold; `extension` is there where not all of its request's bound is held."""

    hold: Hold
    extension: Extension | None = None


class Sort(NamedTuple):
    """What decides whether a request may be held in part, and how its stream ends where no more can be held."""

    request: RequestFacts
    model: ModelFacts
    tells_usage: bool


class Placer:
    """Places holds with the ledger; `usual` is what answers have needed."""

    def __init__(self, ledger: Ledger, counter: TokenCounter, settings: ExchangeSettings) -> None:
        self._ledger = ledger
        self._counter = counter
        self._count_seconds = settings.count_seconds
        self.usual: Final = Usual()

    def try_place(self, request: HoldRequest, sort: Sort) -> Placed | None:
        """Place a hold from what is here; None where others must be asked. Raises as `Ledger.try_place`."""
        part, step = self._part(request, sort)
        if part is not None:
            with suppress(NoExposure):
                hold = self._ledger.try_place(part)
                return None if hold is None else self._growing(hold, part, step, sort)
        with _softened(part):
            hold = self._ledger.try_place(request)
        return None if hold is None else Placed(hold)

    async def place(self, request: HoldRequest, sort: Sort) -> Placed:
        """The same, waiting in line where that is needed. Raises as `Ledger.place`."""
        placed = self.try_place(request, sort)
        if placed is not None:
            return placed
        part, step = self._part(request, sort)
        if part is not None:
            with suppress(NoExposure):
                return self._growing(await self._ledger.place(part), part, step, sort)
        with _softened(part):
            return Placed(await self._ledger.place(request))

    def _part(self, request: HoldRequest, sort: Sort) -> tuple[HoldRequest | None, int]:
        """The request held in part, None where all of it is; and how many tokens of output are held at a time."""
        if not may_be_held_in_part(request, sort.request, sort.model):
            return None, 0
        step = self.usual.tokens(request.key.key_id, request.model)
        part = in_part(request, step)
        return (part if part.exposed_nanos > 0 else None), step

    def _growing(self, hold: Hold, part: HoldRequest, step: int, sort: Sort) -> Placed:
        extension = Extension(
            self._ledger, hold, part, step, self._counter, self._count_seconds, tells_usage=sort.tells_usage
        )
        return Placed(hold, extension)


@contextmanager
def _softened(part: HoldRequest | None) -> Iterator[None]:
    """Say *held* where only the whole is more than there is: a part of it may fit once others leave less unheld."""
    try:
        yield
    except ApiError as refusal:
        exposure = None if part is None else part.key.account.exposure
        merely = part is not None and exposure is not None and part.exposed_nanos <= (exposure.cap or 0)
        if merely and refusal.case in {Case.CREDIT_SPENT, Case.BUDGET_SPENT}:
            text = "Running requests leave no room for what this one may cost beyond what can be held for it."
            raise ApiError(Case.CREDIT_HELD, text) from refusal
        raise
