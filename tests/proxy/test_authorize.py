"""Authorize: what is held, when text is counted, when an answer is limited."""

import asyncio
from uuid import UUID

import orjson
import pytest

from meterproxy.core.bound import ModelFacts, bound_of
from meterproxy.core.key import KeyPolicy
from meterproxy.core.price import Price, RateCard
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.accept import read_asked
from meterproxy.proxy.authorize import (
    USEFUL_REASONING_TOKENS,
    USEFUL_TOKENS,
    Attempt,
    Authorized,
    Authorizer,
)
from meterproxy.proxy.endpoints import find_endpoint
from meterproxy.proxy.headers import Attribution
from meterproxy.proxy.provider import Provider
from meterproxy.proxy.request_facts import read_facts
from meterproxy.proxy.route import Route
from meterproxy.proxy.settings import ExchangeSettings
from meterproxy.proxy.token_counts import counted_within
from meterproxy.proxy.turns import Turns
from tests.proxy.fakes import FakeCounter, FakeLedger, key_entry

OUT = 10_000_000
"""Nanodollars per token of output, ten times those of input: numbers to do by head."""
IN = 1_000_000
PRICE = Price("openai", "gpt-4o", {"default": RateCard.written([(-1, {"input": IN * 10**6, "output": OUT * 10**6})])})
PLAIN = ModelFacts(context_tokens=100_000, max_output_tokens=4_000)
THINKING = ModelFacts(context_tokens=100_000, max_output_tokens=40_000, reasoning=True)
TEXT = "One two three four five six seven eight nine ten. " * 20


def attempt(facts: ModelFacts = PLAIN, policy: KeyPolicy | None = None, **members: object) -> Attempt:
    body = {"model": "gpt-4o", "messages": [{"role": "user", "content": TEXT}], **members}
    asked = read_asked(find_endpoint("POST", "/v1/chat/completions").route, orjson.dumps(body))
    route = Route(Provider("openai", None), "gpt-4o", PRICE, facts)  # type: ignore[arg-type]
    request_facts = read_facts(asked.endpoint.operation, asked.members, route.model)
    return Attempt(UUID(int=9), 1, key_entry(policy=policy), asked, route, Attribution(), request_facts)


class Bench:
    def __init__(self, balance_tokens: int, share_ppm: int = 1_000_000) -> None:
        self.ledger = FakeLedger(balance_nanos=balance_tokens * OUT)
        self.counter = FakeCounter()
        settings = ExchangeSettings(hold_max_share_ppm=share_ppm)
        self.authorizer = Authorizer(self.ledger, self.counter, settings, Turns())

    async def __call__(self, asked: Attempt) -> Authorized:
        authorized = await self.authorizer.authorize(asked)
        [placed] = self.ledger.placed
        expected = bound_of("chat", asked.request_facts, "gpt-4o", asked.route.facts)
        assert placed.bound == authorized.bound == expected
        assert placed.hold_nanos == PRICE.hold_nanos(expected, 1_000_000)
        return authorized


async def test_the_usual_case_needs_no_tokenizer() -> None:
    """A request that fits by its bytes is held as such."""
    bench = Bench(100_000)
    authorized = await bench(attempt(max_tokens=100))
    assert authorized.bound.output_tokens == 100
    assert authorized.bound.input_tokens > len(TEXT)
    assert authorized.lowered_maximum is None
    assert bench.counter.asked == []


async def test_choices_and_predictions_are_held() -> None:
    """Each choice may be as long as the maximum says; a prediction may be billed as output."""
    bench = Bench(100_000)
    assert (await bench(attempt(max_tokens=100, n=5))).bound.output_tokens == 500
    bench = Bench(100_000)
    prediction = {"type": "content", "content": "x" * 50}
    assert (await bench(attempt(max_completion_tokens=100, prediction=prediction))).bound.output_tokens >= 150


async def test_text_is_counted_before_it_is_refused() -> None:
    """What does not fit by its bytes fits by its tokens."""
    by_bytes = (len(TEXT) + 1100) // 10 + 100
    bench = Bench(by_bytes - 60)
    authorized = await bench(attempt(max_tokens=100))
    assert len(bench.counter.asked) == 1
    assert authorized.bound.input_tokens < len(TEXT) + 1024


async def test_refused_after_counting() -> None:
    """What does not fit by its tokens either is refused, after one count, and nothing is held."""
    bench = Bench(60)
    with pytest.raises(ApiError) as refusal:
        await bench.authorizer.authorize(attempt(max_tokens=100))
    assert refusal.value.case is Case.CREDIT_SPENT
    assert not bench.ledger.open


async def test_hopeless_requests_are_not_counted() -> None:
    """An account that could not even pay for the answer does not keep the tokenizer busy."""
    bench = Bench(0)
    for asked in (attempt(max_tokens=100), attempt()):
        with pytest.raises(ApiError) as refusal:
            await bench.authorizer.authorize(asked)
        assert refusal.value.case is Case.CREDIT_SPENT
    assert bench.counter.asked == []


async def test_tokenizer_away() -> None:
    """Without the tokenizer the bytes stay the bound."""
    bench = Bench(160)
    bench.counter.away = True
    with pytest.raises(ApiError):
        await bench.authorizer.authorize(attempt(max_tokens=100))


async def test_answer_is_limited_to_what_can_be_paid() -> None:
    """Without a maximum of the client's, the answer is as long as the rest pays, and that is held whole."""
    bench = Bench(2_000)
    authorized = await bench(attempt())
    assert authorized.lowered_maximum is not None
    assert USEFUL_TOKENS < authorized.lowered_maximum < PLAIN.max_output_tokens
    assert bench.ledger.placed[0].hold_nanos <= 2_000 * OUT
    assert bench.ledger.placed[0].hold_nanos > 1_950 * OUT


async def test_choices_share_what_can_be_paid() -> None:
    """Each of several choices gets its part."""
    one, four = Bench(4_000), Bench(4_000)
    whole = (await one(attempt())).lowered_maximum
    part = (await four(attempt(n=4))).lowered_maximum
    assert whole is not None
    assert part is not None
    assert part == pytest.approx(whole / 4, abs=2)


async def test_share_of_the_rest() -> None:
    """One request without a maximum leaves something for its siblings."""
    bench = Bench(8_000, share_ppm=250_000)
    authorized = await bench(attempt())
    assert authorized.lowered_maximum is not None
    assert bench.ledger.placed[0].hold_nanos <= 2_000 * OUT


async def test_share_does_not_bind_who_names_a_maximum() -> None:
    """A client that says how much it wants may hold all that is left."""
    bench = Bench(5_000, share_ppm=250_000)
    assert (await bench(attempt(max_tokens=4_000))).lowered_maximum is None


@pytest.mark.parametrize(("facts", "useful"), [(PLAIN, USEFUL_TOKENS), (THINKING, USEFUL_REASONING_TOKENS)])
async def test_useful_minimum(facts: ModelFacts, useful: int) -> None:
    """An answer is never limited to less than what is of use; if that cannot be paid the request is refused."""
    assert (await Bench(useful + 200, share_ppm=10_000)(attempt(facts))).lowered_maximum == useful
    with pytest.raises(ApiError) as refusal:
        await Bench(useful - 10).authorizer.authorize(attempt(facts))
    assert refusal.value.case is Case.CREDIT_SPENT


async def test_a_models_own_maximum_is_not_raised() -> None:
    """The useful minimum does not exceed what the model can."""
    tiny = ModelFacts(context_tokens=1000, max_output_tokens=100)
    assert (await Bench(1_000, share_ppm=1)(attempt(tiny))).lowered_maximum == 100


async def test_highest_price_of_one_request() -> None:
    """A key's limit for one request shortens answers without a maximum and refuses the others."""
    policy = KeyPolicy(highest_request_nanos=1_000 * OUT)
    bench = Bench(100_000)
    assert (await bench(attempt(policy=policy))).lowered_maximum is not None
    assert bench.ledger.placed[0].hold_nanos <= 1_000 * OUT
    with pytest.raises(ApiError) as refusal:
        await Bench(100_000).authorizer.authorize(attempt(policy=policy, max_tokens=2_000))
    assert refusal.value.case is Case.PERMISSION_DENIED


async def test_what_one_request_may_cost_is_told_as_pages_tell_it() -> None:
    """In dollars with their thousands apart, both of the request and of the key."""
    policy = KeyPolicy(highest_request_nanos=1_000 * 10**9)
    with pytest.raises(ApiError) as refusal:
        await Bench(10**9).authorizer.authorize(attempt(policy=policy, max_tokens=4_000, n=40))
    assert refusal.value.message.startswith("This request may cost up to $1,60")
    assert refusal.value.message.endswith("one request of this API key may cost $1,000.00 at most.")


async def test_cold_account_is_asked_of_postgresql() -> None:
    """Where nothing was heard of the rest yet, it is fetched."""
    bench = Bench(100_000)
    bench.ledger.cold = True
    assert (await bench(attempt())).lowered_maximum is None


async def test_another_tokenizer_is_not_trusted_by_half() -> None:
    """A count by another model's vocabulary is doubled, and never above the bytes."""

    class Inexact(FakeCounter):
        async def count(self, model, texts):
            counted = await super().count(model, texts)
            return counted and (counted[0], False)

    bench = Bench(215)
    exact = await bench(attempt(max_tokens=80))
    bench = Bench(240)
    bench.authorizer = Authorizer(bench.ledger, Inexact(), ExchangeSettings(hold_max_share_ppm=1_000_000), Turns())
    inexact = await bench(attempt(max_tokens=80))
    assert exact.bound.input_tokens < inexact.bound.input_tokens


async def test_counting_is_bounded_in_time() -> None:
    """A tokenizer that does not answer is not waited for."""

    class Stuck(FakeCounter):
        async def count(self, model, texts):
            await asyncio.Event().wait()

    assert await counted_within(Stuck(), "gpt-4o", ["x"], 0.001) is None
