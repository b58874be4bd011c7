"""Refusals: what a client is told of the limit that has no room for its request.

Rules
-----
- *Spent* would not fit even if every running request ended. Of money that is final; a rate limit says when its next
  window begins, unless the request is larger than any window.
- *Held* would fit once running requests end: it is to be tried again, soon.
- Requests that run are as good as used: nobody is told to come back before the window's end for their sake.
"""

from typing import Final

from meterproxy.core.limit import Measure
from meterproxy.core.money import dollars
from meterproxy.core.plan import Planned
from meterproxy.core.window import FOREVER_US
from meterproxy.errors import ApiError, Case

SOON_US: Final = 1_000_000


def refusal(planned: Planned, amount: int, now_us: int, *, spent: bool) -> ApiError:
    """The error for a request that needs `amount` of a limit; `now_us` is the time by which its window ends."""
    if planned.limit is None:
        return _credit_spent(amount) if spent else _credit_held()
    if planned.measure is Measure.AMOUNT:
        return _budget_spent(planned, amount, now_us) if spent else _budget_held(planned)
    return _rate_reached(planned, amount, now_us, spent=spent)


def unavailable() -> ApiError:
    """PostgreSQL cannot be asked, and what this worker has been lent does not suffice."""
    return ApiError(Case.UNAVAILABLE, "The service cannot check this account's credit right now. Please try again.")


def _credit_spent(amount: int) -> ApiError:
    return ApiError(
        Case.CREDIT_SPENT,
        f"You exceeded your current quota: this request may cost up to {dollars(amount)}, more than the credit "
        "that is left on the account.",
    )


def _credit_held() -> ApiError:
    return ApiError(Case.CREDIT_HELD, "Running requests hold the rest of this account's credit.")


def _budget_spent(planned: Planned, amount: int, now_us: int) -> ApiError:
    seconds = -(-max(planned.window.end_us - now_us, 1) // 1_000_000)
    return ApiError(
        Case.BUDGET_SPENT,
        f"You exceeded your current quota: this request may cost up to {dollars(amount)}, more than is left of the "
        f"{_named(planned)}.",
        headers={"Retry-After": str(seconds)} if planned.window.end_us < FOREVER_US else None,
    )


def _budget_held(planned: Planned) -> ApiError:
    return ApiError(Case.CREDIT_HELD, f"Running requests hold the rest of the {_named(planned)}.")


def _rate_reached(planned: Planned, amount: int, now_us: int, *, spent: bool) -> ApiError:
    limit, window = planned.limit, planned.window
    assert limit is not None
    case = Case.TOKENS_LIMITED if planned.measure is Measure.TOKENS else Case.REQUESTS_LIMITED
    most = (limit.cap or 0) + limit.grace
    if amount > most:
        message = f"Request too large for the {_named(planned)}: limit {most}, requested {amount}."
        return ApiError(case, message, headers={"x-should-retry": "false"})
    final = spent or planned.measure is Measure.REQUESTS
    wait_us = max(window.end_us - now_us, 1000) if final and window.end_us < FOREVER_US else SOON_US
    wait = f"{wait_us / 1e6:.3g}s" if wait_us < 10 * SOON_US else f"{-(-wait_us // SOON_US)}s"
    message = f"Rate limit reached for the {_named(planned)}: limit {most}. Please try again in {wait}."
    return ApiError(case, message, headers=_retry_after(wait_us))


def _retry_after(wait_us: int) -> dict[str, str]:
    """In whole seconds as HTTP has it, and in milliseconds as OpenAI's SDKs prefer it; never too early."""
    return {"Retry-After": str(-(-wait_us // 1_000_000)), "retry-after-ms": str(-(-wait_us // 1000))}


def _named(planned: Planned) -> str:
    limit = planned.limit
    assert limit is not None
    return f"{'budget' if planned.measure is Measure.AMOUNT else 'limit'} {limit.title}" if limit.name else limit.title
