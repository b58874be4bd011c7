"""Free: requests that cost nothing, forwarded and passed on once what they bring or take away is written down.

Rules
-----
- Nothing is held and nothing booked, but for the end of a response in the background that an answer shows.
- An answer is read whole before it is passed on: it may bring ids. A stream (the replay of a response) goes by events.
- What was deleted at the provider is forgotten here before its client hears of it.
- A provider's error passes with its words, as everywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

from meterproxy.core.key import KeyEntry
from meterproxy.core.resource import RESPONSE, Resource
from meterproxy.errors import ApiError, Case, JournalFailed
from meterproxy.proxy.accept import Asked
from meterproxy.proxy.background import Background
from meterproxy.proxy.claims import Claims
from meterproxy.proxy.client import JSON_TYPE, Client
from meterproxy.proxy.decode import decoder_for
from meterproxy.proxy.delivery import not_recorded
from meterproxy.proxy.forward import Forwarded, Forwarder, nothing_held, read_whole, unreadable
from meterproxy.proxy.headers import Header, to_client
from meterproxy.proxy.large_body import abridged
from meterproxy.proxy.listing import Listing
from meterproxy.proxy.ownership import Owned, at_another_provider
from meterproxy.proxy.ports import Clock, Owners
from meterproxy.proxy.replay import Replay, ReplayRelay
from meterproxy.proxy.response_meter import read_response
from meterproxy.proxy.route import Route, Router
from meterproxy.proxy.texts import TextPool
from meterproxy.proxy.turns import Turns
from meterproxy.proxy.upstream import UpstreamAnswer

EVENT_STREAM: Final = b"text/event-stream"


@dataclass(frozen=True, slots=True)
class FreeHouse:
    """What the free requests of one worker share."""

    router: Router
    clock: Clock
    owners: Owners
    background: Background
    pool: TextPool
    turns: Turns
    keepalive_seconds: float


class Wish(NamedTuple):
    """What a request that costs nothing asks for; `query` is what of its query passes."""

    asked: Asked
    ids: tuple[str, ...]
    query: str
    owned: Owned
    key: KeyEntry


class Passage:
    """One request that costs nothing, from its route to its answer.

    Args:
        own_headers: ours, for the answer.
        replays: told of a stream before it begins.

    Raises:
        ApiError: MODEL_NOT_FOUND; UPSTREAM_ACCOUNT; RESOURCE_NOT_FOUND where what it mentions is at another provider.
    """

    def __init__(
        self,
        house: FreeHouse,
        client: Client,
        wish: Wish,
        own_headers: list[Header],
        replays: Callable[[ReplayRelay], None],
    ) -> None:
        self._house = house
        self._client = client
        self._wish = wish
        self._own_headers = own_headers
        self._replays = replays
        self._route = self._find_route()

    @property
    def provider(self) -> str:
        """The name of where the request goes."""
        return self._route.provider.name

    @property
    def _resource(self) -> Resource | None:
        """What the path names, if it names anything."""
        return self._wish.owned.resources[0] if self._wish.ids else None

    def _find_route(self) -> Route:
        asked, owned = self._wish.asked, self._wish.owned
        operation, now_us = asked.endpoint.operation, self._house.clock.now_us()
        model = asked.model or (_model_listed(self._wish.query) if asked.endpoint.lists else "")
        route = self._house.router.free_route(model, owned.provider, operation, self._wish.key, now_us)
        if route is None:
            raise at_another_provider(asked, owned)
        return route

    async def run(self) -> None:
        """Forward the request and pass its answer on.

        Raises:
            ApiError: no answer came or it cannot be read, or what it brings could not be written down.
        """
        endpoint, resource = self._wish.asked.endpoint, self._resource
        try:
            if endpoint.lists is not None:
                await self._list(endpoint.lists)
                return
            if endpoint.deletes and resource is not None and resource.kind == RESPONSE:
                await self._house.background.before_deletion(resource, self._route.provider)
            forwarded = await self._ask(self._wish.query)
            if forwarded.error_body is not None:
                self._pass_error(forwarded)
            elif forwarded.answer.content_type == EVENT_STREAM:
                await self._replay(forwarded.answer)
            else:
                await self._pass(forwarded.answer)
        except JournalFailed:
            raise not_recorded() from None

    async def _ask(self, query: str) -> Forwarded:
        wish, client = self._wish, self._client
        account_id, clock = wish.key.account_id, self._house.clock
        forwarder = Forwarder(client, wish.asked, wish.ids, self._route, account_id, clock, nothing_held, query)
        return await forwarder.forward(None)

    def _pass_error(self, forwarded: Forwarded) -> None:
        answer = forwarded.answer
        self._client.answer(answer.status, self._headers(answer), forwarded.error_body or b"")

    async def _pass(self, answer: UpstreamAnswer) -> None:
        body, text = await read_whole(answer)
        endpoint, resource = self._wish.asked.endpoint, self._resource
        large = await abridged(text, self._house.turns)
        self._claims().take_answer(large.document)
        if endpoint.deletes and resource is not None:
            self._house.owners.forget(resource, self._house.clock.now_us())
        elif endpoint.items == "output" and resource is not None:
            await self._house.background.see(resource, read_response(RESPONSE, large.document), large)
        self._client.answer(answer.status, self._headers(answer), body)

    async def _replay(self, answer: UpstreamAnswer) -> None:
        resource = self._resource
        if self._client.head.method == "HEAD":
            answer.abort()
            self._client.answer(answer.status, self._headers(answer), b"")
            return
        if resource is None or decoder_for(answer.fields) is not None:
            answer.abort()
            raise unreadable("The provider's answer is in a form that nobody asked for.")
        house = self._house
        relay = ReplayRelay(
            Replay(
                client=self._client,
                answer=answer,
                headers=self._headers(answer),
                resource=resource,
                claims=self._claims(),
                background=house.background,
                pool=house.pool,
                keepalive_seconds=house.keepalive_seconds,
            )
        )
        self._replays(relay)
        await relay.run()

    async def _list(self, kind: str) -> None:
        """Answer with a provider's list without what is others'; an error of the provider's passes."""
        refused: list[Forwarded] = []

        async def fetch(query: str) -> bytes:
            forwarded = await self._ask(query)
            if forwarded.error_body is not None:
                refused.append(forwarded)
                raise ApiError(Case.UPSTREAM_UNREACHABLE, "The provider has refused to list.")
            return (await read_whole(forwarded.answer))[1]

        listing = Listing(self._house.owners, self._wish.key.account_id, kind, self.provider, self._wish.query)
        try:
            body = await listing.read(fetch)
        except ApiError:
            if not refused:
                raise
            self._pass_error(refused[0])
            return
        self._client.answer(200, [JSON_TYPE, *self._own_headers], body)

    def _headers(self, answer: UpstreamAnswer) -> list[Header]:
        return self._own_headers + to_client(answer.headers, answer.fields)

    def _claims(self) -> Claims:
        house, endpoint = self._house, self._wish.asked.endpoint
        account_id = self._wish.key.account_id
        return Claims(house.owners, house.clock, account_id, self.provider, endpoint.creates, endpoint.items)


def _model_listed(query: str) -> str:
    """The model that a list is narrowed to, empty where it is not."""
    return next((value for name, value in parse_qsl(query) if name == "model"), "")
