"""Direct logging: usage that did not pass here goes into the same books, by the same hold and the same ending.

Rules
-----
- It is held before it is captured, so what it costs must fit: nobody talks an account below its limits.
- It draws from the windows of now, whenever it was: those of then may be over. Its row is of the instant it names.
- Held and captured in one step: a worker that dies in between has logged nothing, and nobody was told otherwise.
"""

from contextlib import suppress
from typing import Final

from meterproxy.core.bound import Bound
from meterproxy.core.hold import HoldRequest
from meterproxy.core.key import KeyEntry
from meterproxy.core.logged import LOGGED, LoggedUsage
from meterproxy.core.price import Price
from meterproxy.core.record import Ending
from meterproxy.core.usage import Outcome, UsageSource
from meterproxy.errors import ApiError, Case, JournalFailed
from meterproxy.proxy.authenticate import live_key, may_use_model
from meterproxy.proxy.house import House
from meterproxy.proxy.route import not_found, shown

STATUS: Final = 200


async def log_usage(house: House, logged: LoggedUsage) -> None:
    """Book what is logged; in the journal, or at least in memory on its way to PostgreSQL, when this returns.

    Raises:
        ApiError: nothing was booked: KEY_INVALID, PERMISSION_DENIED, MODEL_NOT_PRICED, and what placing a hold raises.
        StoreUnavailable: nothing was booked.
    """
    key = live_key(await house.ports.directory.find(logged.key_digest), house.ports.clock)
    house.ports.brakes.check(key)
    _permit(key, logged)
    request = _hold_request(house, key, logged)
    if key.policy.highest_request_nanos is not None and request.hold_nanos > key.policy.highest_request_nanos:
        raise ApiError(Case.PERMISSION_DENIED, "This is more than one request of this API key may cost.")
    ledger, ending = house.ports.ledger, _ending(logged)
    hold = await ledger.place(request)
    with suppress(JournalFailed):  # it is kept in memory for settle, and the caller waits until that has booked it
        if logged.charged:
            ledger.capture(hold, ending)
        else:
            ledger.release(hold, ending)


def _permit(key: KeyEntry, logged: LoggedUsage) -> None:
    if key.policy.operations is not None and LOGGED not in key.policy.operations:
        raise ApiError(Case.PERMISSION_DENIED, f"This API key may not be used for '{LOGGED}'.")
    if not may_use_model(key, logged.model):
        raise not_found(logged.model)


def _hold_request(house: House, key: KeyEntry, logged: LoggedUsage) -> HoldRequest:
    usage, price = logged.usage, _price(house, logged)
    markup_ppm = house.settings.markup_ppm
    return HoldRequest(
        logged.request_id,
        logged.occurred_us,
        key,
        LOGGED,
        logged.provider,
        logged.model,
        price,
        markup_ppm,
        Bound(input_tokens=usage.input_tokens, output_tokens=usage.output_tokens),
        price.amounts(usage, None, markup_ppm).amount_nanos if logged.charged else 0,
        stream=False,
        conversation=logged.conversation,
        tags=logged.tags,
        accepted_us=house.ports.clock.now_us(),
    )


def _price(house: House, logged: LoggedUsage) -> Price:
    """The price of then. Raises ApiError MODEL_NOT_PRICED."""
    provider = house.router.named(logged.provider)
    prices = logged.provider if provider is None else provider.prices
    price = house.ports.catalog.price(prices, logged.model, logged.occurred_us)
    if price is None:
        text = f"The model '{shown(logged.model)}' has no price at '{shown(logged.provider)}', so it cannot be logged."
        raise ApiError(Case.MODEL_NOT_PRICED, text, param="model")
    return price


def _ending(logged: LoggedUsage) -> Ending:
    return Ending(
        Outcome.COMPLETED,
        STATUS,
        UsageSource.REPORTED,
        logged.usage,
        latency_us=logged.latency_us,
    )
