"""Models: the list that a client sees, made of what the providers offer.

Rules
-----
- A model is listed only by the provider that its requests would go to, only with a price, and only if the key may use
  it. What is not listed does not exist.
- A provider's list is fetched when it is asked for, at most once a minute, by one request at a time, in ten seconds at
  most; by the next of its keys where one is refused, within the same ten. While it cannot be fetched the last one that
  could be stands, also for those who come while it is fetched. Where there is none, who asks hears of the failure at
  once for a while, which begins when it failed.
- What is not read to its end is aborted, so that a provider that says nothing more keeps no connection.
- A provider's own words about a model pass as they are, of its first `MOST_MODELS`: of more than can be remembered each
  would be looked up anew with each request.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import islice
from typing import Any, Final, NamedTuple, TypeVar

import orjson

from meterproxy.core.bound import ModelFacts
from meterproxy.core.key import KeyEntry
from meterproxy.core.price import Price
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.authenticate import may_use_model
from meterproxy.proxy.forward import failed, nothing_held
from meterproxy.proxy.headers import to_provider
from meterproxy.proxy.provider import Provider, account_refused
from meterproxy.proxy.route import MODELS_REMEMBERED, Router, not_found
from meterproxy.proxy.upstream import UpstreamError

FRESH_US: Final = 60_000_000
RETRY_US: Final = 5_000_000
"""How long a failed fetch is not repeated."""
FETCH_SECONDS: Final = 10.0
LIST_BYTES: Final = 16 << 20
MOST_MODELS: Final = MODELS_REMEMBERED
MODELS_A_TURN: Final = 32
"""How many are looked up between two turns of the loop."""

T = TypeVar("T")

Model = dict[str, Any]


class Offer(NamedTuple):
    """A model that can be had now, and what it costs."""

    model: str
    provider: str
    price: Price
    facts: ModelFacts


class ProviderModels:
    """One provider's list, as last fetched."""

    def __init__(self, provider: Provider) -> None:
        self.provider = provider
        self._models: dict[str, Model] | None = None
        self._failure: ApiError | None = None
        """Why there is no list yet."""
        self._next_fetch_us = 0
        self._fetching = asyncio.Lock()

    async def read(self, now_us: int) -> dict[str, Model]:
        """The models by id.

        Raises:
            ApiError: the list was never fetched and cannot be now.
        """
        if now_us >= self._next_fetch_us and not (self._models is not None and self._fetching.locked()):
            async with self._fetching:
                if now_us >= self._next_fetch_us:
                    await self._refresh(now_us)
        if self._models is None:
            assert self._failure is not None, "it was asked for"
            raise self._failure.again()
        return self._models

    async def _refresh(self, now_us: int) -> None:
        began = time.monotonic_ns()
        try:
            self._models = await self._fetch()
        except ApiError as error:
            failed_us = now_us + (time.monotonic_ns() - began) // 1000
            self._next_fetch_us, self._failure = failed_us + RETRY_US, error.again()
        else:
            self._next_fetch_us = now_us + FRESH_US

    async def _fetch(self) -> dict[str, Model]:
        try:
            async with asyncio.timeout(FETCH_SECONDS):
                for provider in self.provider.chain():
                    status, body = await ask(provider)
                    if status == 200:
                        return dict(islice(listed(body), MOST_MODELS))
        except UpstreamError as error:
            raise failed(error) from None
        except TimeoutError:
            raise ApiError(Case.UPSTREAM_TIMEOUT, "The provider did not list its models in time.") from None
        raise account_refused()


async def ask(provider: Provider) -> tuple[int, bytes]:
    """Ask a provider for its models: the status of its answer, and what it says. Raises UpstreamError."""
    headers = to_provider((), provider.own_headers)
    answer = await provider.upstream.send(b"GET", "/models", headers, b"", before_first_byte=nothing_held)
    try:
        return answer.status, await answer.read_all(LIST_BYTES)
    finally:
        answer.abort()  # nothing once all has been read


def listed(body: bytes) -> Iterator[tuple[str, Model]]:
    """The models that a provider lists, by id. Raises ApiError UPSTREAM_ACCOUNT where it is no list."""
    try:
        data = orjson.loads(body)["data"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        data = None
    if not isinstance(data, list):
        raise account_refused()
    for model in data:
        if isinstance(model, dict) and isinstance(model.get("id"), str):
            yield model["id"], model


async def _by_turns(items: Iterable[T]) -> AsyncIterator[T]:
    """One after the other; the first look at a model takes a while, and others have their turn in between."""
    for number, item in enumerate(items, 1):
        yield item
        if number % MODELS_A_TURN == 0:
            await asyncio.sleep(0)


class Models:
    """All providers' lists as one."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._known: list[ProviderModels] = []

    @property
    def _lists(self) -> list[ProviderModels]:
        """One list for each provider that there is now."""
        if [known.provider for known in self._known] != list(self._router.providers):
            known = {models.provider.name: models for models in self._known}
            self._known = [
                models if (models := known.get(provider.name)) is not None and models.provider is provider
                else ProviderModels(provider)
                for provider in self._router.providers
            ]  # fmt: skip
        return self._known

    async def listing(self, key: KeyEntry, now_us: int) -> bytes:
        """The answer to `GET /v1/models`.

        Raises:
            ApiError: no provider's list can be had.
        """
        visible = [model async for id_, model in _by_turns(await self._all(now_us)) if self._visible(id_, key, now_us)]
        return orjson.dumps({"object": "list", "data": visible})

    async def offers(self, now_us: int) -> list[Offer]:
        """All models that have a price, by name. Raises ApiError where no provider's list can be had."""
        found = []
        async for id_, _ in _by_turns(await self._all(now_us)):
            provider = self._router.provider_of(id_)
            price = None if provider is None else self._router.price(provider, id_, now_us)
            if provider is not None and price is not None:
                found.append(Offer(id_, provider.name, price, self._router.facts(provider, id_)))
        return sorted(found, key=lambda offer: (offer.model, offer.provider))

    async def one(self, model_id: str, key: KeyEntry, now_us: int) -> bytes:
        """The answer to `GET /v1/models/{id}`.

        Raises:
            ApiError: MODEL_NOT_FOUND; or the provider's list cannot be had.
        """
        provider = self._router.provider_of(model_id)
        if provider is not None and self._visible(model_id, key, now_us):
            own = next(models for models in self._lists if models.provider is provider)
            model = (await own.read(now_us)).get(model_id)
            if model is not None:
                return orjson.dumps(model)
        raise not_found(model_id)

    async def _all(self, now_us: int) -> list[tuple[str, Model]]:
        """Every model with its provider's words, from the provider that serves it."""
        found: list[tuple[str, Model]] = []
        failures: list[ApiError] = []
        lists = self._lists
        answers = await asyncio.gather(*(models.read(now_us) for models in lists), return_exceptions=True)
        for models, answer in zip(lists, answers, strict=True):
            if isinstance(answer, ApiError):
                failures.append(answer)
            elif isinstance(answer, BaseException):
                raise answer
            else:
                found += [item for item in answer.items() if self._router.provider_of(item[0]) is models.provider]
        if failures and len(failures) == len(lists):
            raise failures[0]
        return found

    def _visible(self, model_id: str, key: KeyEntry, now_us: int) -> bool:
        provider = self._router.provider_of(model_id)
        return (
            provider is not None
            and may_use_model(key, model_id)
            and self._router.price(provider, model_id, now_us) is not None
        )
