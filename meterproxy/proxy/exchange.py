"""The exchange: one client request with its answer, from accept to capture. `Exchange.run` tells the story.

Rules
-----
- The stages do not call each other; `run` calls them in order.
- Whatever happens, `run` ends in `_resolve`, which is synchronous: a hold that is still open there is ended there.
- An exchange never raises, but for a cancellation that is not its own: what goes wrong becomes an answer.
- An exchange that is over its time, or that a shutdown cannot wait for, is ended by `cut_short`.
"""

import asyncio
import contextlib
import logging
import os
from typing import Final

from meterproxy.core.identifier import uuid7
from meterproxy.core.key import KeyEntry
from meterproxy.core.usage import Outcome, Usage, UsageSource
from meterproxy.errors import ApiError, Case, JournalFailed
from meterproxy.proxy.accept import Asked, asked_of, check_readable, read_asked, unread
from meterproxy.proxy.adaptive import OPERATIONS as ADAPTIVE
from meterproxy.proxy.adaptive import Extension
from meterproxy.proxy.authenticate import find_key, known_key, permit
from meterproxy.proxy.authorize import Attempt
from meterproxy.proxy.capture import Measured, OpenHold
from meterproxy.proxy.claims import claims_for, keeps
from meterproxy.proxy.client import JSON_TYPE, REQUEST_ID, Client
from meterproxy.proxy.counting import Counting
from meterproxy.proxy.decode import decoder_for
from meterproxy.proxy.delivery import Delivery
from meterproxy.proxy.endpoints import Endpoint, Way, find_endpoint
from meterproxy.proxy.forward import Failed, Forwarded, Forwarder
from meterproxy.proxy.free import EVENT_STREAM, Passage, Wish
from meterproxy.proxy.headers import CONVERSATION_BYTES, attribution, to_client
from meterproxy.proxy.house import House
from meterproxy.proxy.idempotency import KeyClaim
from meterproxy.proxy.large_body import DIRECT_BYTES, new_nonce, scanning
from meterproxy.proxy.mentions import ESCAPED
from meterproxy.proxy.meter import Reading
from meterproxy.proxy.ownership import NOTHING, Owned, at_another_provider, in_body
from meterproxy.proxy.paths import allowed_query
from meterproxy.proxy.plain import LargeRelay, relay_plain
from meterproxy.proxy.ports import Finished
from meterproxy.proxy.rate_headers import rate_headers
from meterproxy.proxy.replay import ReplayRelay
from meterproxy.proxy.request_facts import MORE, read_facts
from meterproxy.proxy.route import Route
from meterproxy.proxy.stream import StreamRelay
from meterproxy.proxy.usage_shapes import Ceiling

UNKNOWN_ROUTE: Final = "other"


_log: Final = logging.getLogger(__name__)


class Exchange:
    """One client request with its answer."""

    __slots__ = (
        "_client",
        "_counting",
        "_cut_short_by",
        "_extension",
        "_forwarded_us",
        "_hold",
        "_house",
        "_keeps",
        "_key_claim",
        "_model",
        "_provider",
        "_rated",
        "_request_id_text",
        "_route_name",
        "_streaming",
        "_upstream_us",
        "begun_us",
        "relay",
        "request_id",
        "started_us",
    )

    def __init__(self, house: House, client: Client) -> None:
        self.started_us = house.ports.clock.now_us()
        self.begun_us = house.ports.clock.elapsed_us()
        self.request_id = uuid7(self.started_us, os.urandom(10))
        self._request_id_text = str(self.request_id).encode()
        self.relay: StreamRelay | LargeRelay | ReplayRelay | None = None
        self._house = house
        self._client = client
        self._hold: OpenHold | None = None
        self._extension: Extension | None = None
        self._counting: Counting | None = None
        self._key_claim: KeyClaim | None = None
        self._cut_short_by: ApiError | None = None
        self._route_name = UNKNOWN_ROUTE
        self._model = ""
        self._provider = ""
        self._rated: tuple[KeyEntry, str, str] | None = None
        self._keeps = False
        self._streaming = False
        self._forwarded_us = 0
        self._upstream_us = 0

    async def run(self) -> None:
        """Answer the request: accept → authenticate → own → route (→ claim) → authorize → forward → relay → capture."""
        client, ports = self._client, self._house.ports
        try:
            head = client.head
            endpoint, ids = head.matched = head.matched or find_endpoint(head.method, head.target)
            self._route_name = endpoint.template
            key = known_key(head, ports.directory, ports.clock)
            if key is None:
                key = await find_key(head, ports.directory, ports.clock)
            permit(key, endpoint, client, self._house.settings.trusted_proxies)
            if endpoint.way is Way.METERED:
                ports.brakes.check(key)
                asked = await self._accept(endpoint)
                mentions = ids or (endpoint.mentions and in_body(asked))
                owned = await self._check_owned(asked, ids, "", key) if mentions else NOTHING
                route = self._route(asked, owned, key)
                if head.idempotency_keys and not await self._claimed_key(asked, key):
                    return
                lowered_maximum = await self._authorize(asked, owned, route, key)
                forwarded = await self._forward(asked, ids, route, key, lowered_maximum)
                await self._relay(asked, route, key, forwarded, lowered_maximum)
            elif endpoint.way is Way.FREE:
                asked = await self._accept(endpoint)
                query = allowed_query(head.target.partition("?")[2], endpoint.query)
                owned = await self._check_owned(asked, ids, query, key)
                await self._pass(Wish(asked, ids, query, owned, key))
            else:
                await self._list_models(ids, key)
        except ApiError as error:
            self._refuse(error)
        except asyncio.CancelledError:
            if self._cut_short_by is None:
                raise
            await self._end_short(self._cut_short_by)
        except Exception:  # noqa: BLE001  a bug must end as an answer too, and be seen
            _log.exception("an exchange failed", extra={"request_id": str(self.request_id)})
            self._refuse(ApiError(Case.INTERNAL, "The server had an error while processing your request."))
        finally:
            self._resolve()

    # ── the stages ──────────────────────────────────────────────────────────────────────────────────────────────────

    async def _accept(self, endpoint: Endpoint) -> Asked:
        client, limit_bytes, room = self._client, self._house.settings.max_body_bytes, self._house.room
        check_readable(client.head)
        body = client.whole_body(limit_bytes, room)
        if body is None:
            body = await client.read_body(limit_bytes, room)
        if len(body) <= DIRECT_BYTES or unread(endpoint, body):
            return read_asked(endpoint, body)
        reading = scanning(body, endpoint.members, new_nonce(), (endpoint.marks, MORE, ESCAPED))
        return asked_of(endpoint, await self._house.turns.take(reading))

    async def _check_owned(self, asked: Asked, ids: tuple[str, ...], query: str, key: KeyEntry) -> Owned:
        return await self._house.ownership.check(asked, ids, query, key.account_id)

    def _route(self, asked: Asked, owned: Owned, key: KeyEntry) -> Route:
        route = self._house.router.route(asked.model, asked.endpoint.operation, key, self.started_us)
        if owned.provider is not None and owned.provider != route.provider.name:
            raise at_another_provider(asked, owned)
        self._model, self._provider = route.model, route.provider.name
        self._keeps = keeps(asked)
        if key.account.limits:
            self._rated = key, asked.endpoint.operation, route.model
        return route

    async def _claimed_key(self, asked: Asked, key: KeyEntry) -> bool:
        """Whether this request is to answer under its `Idempotency-Key`; else it has been answered by what is kept."""
        idempotency, body = self._house.idempotency, asked.members.body
        self._key_claim = await idempotency.claim(self._client, body, key.account_id, self.request_id, self.started_us)
        return self._key_claim is not None

    async def _authorize(self, asked: Asked, owned: Owned, route: Route, key: KeyEntry) -> int | None:
        """Place the hold; the maximum to which each answer was lowered, if it was."""
        ports, settings = self._house.ports, self._house.settings
        head = self._client.head
        belongs = head.attribution = head.attribution or attribution(head.headers)
        if owned.conversation is not None and belongs.conversation is None:
            belongs = belongs._replace(conversation=owned.conversation[:CONVERSATION_BYTES])
        facts = read_facts(asked.endpoint.operation, asked.members, route.model)
        attempt = Attempt(self.request_id, self.started_us, key, asked, route, belongs, facts)
        authorizer = self._house.authorizer
        authorized = authorizer.try_authorize(attempt) or await authorizer.authorize(attempt)
        self._hold = OpenHold(authorized.hold, authorized.bound, ports.ledger, ports.clock, self.begun_us)
        self._extension = authorized.extension
        self._counting = Counting(
            asked,
            route,
            attempt.request_facts,
            authorized.bound,
            ports.counter,
            settings.count_seconds,
            self._house.turns,
            authorized.extension,
        )
        return authorized.lowered_maximum

    async def _forward(
        self, asked: Asked, ids: tuple[str, ...], route: Route, key: KeyEntry, lowered_maximum: int | None
    ) -> Forwarded:
        hold = self._hold
        assert hold is not None, "nothing is sent without a hold"
        clock = self._house.ports.clock
        self._forwarded_us = clock.elapsed_us()
        forwarder = Forwarder(self._client, asked, ids, route, key.account_id, clock, before_first_byte=hold.confirm)
        forwarded = await forwarder.forward(lowered_maximum)
        hold.answered(forwarded.answer.fields)
        return forwarded

    async def _relay(
        self, asked: Asked, route: Route, key: KeyEntry, forwarded: Forwarded, lowered_maximum: int | None
    ) -> None:
        """Pass the answer on as what it is by its status and type; the ending is captured on the way."""
        headers = self._own_headers(lowered_maximum) + to_client(forwarded.answer.headers, forwarded.answer.fields)
        if forwarded.error_body is not None:
            self._pass_error(forwarded, headers)
            return
        delivery = self._delivery(asked, route, forwarded, headers, lowered_maximum)
        if self._keeps:
            self._expect_ids(asked, key, delivery)
        streams = forwarded.answer.content_type == EVENT_STREAM
        if self._extension is not None and not (streams and delivery.decoder is None):
            await self._extension.whole()  # it cannot be cut off
        if not streams:
            await relay_plain(delivery, self._began)  # what could not be held stays exposed
            self._received()
            return
        relay = StreamRelay(delivery, self._house.leavers, self._forwarded_us)
        self._began(relay)
        self._stream_opened()
        await relay.run()
        self._received()
        self._learn(asked, route, key)
        if delivery.hold.ending is not None and delivery.hold.ending.outcome == Outcome.STREAM_BROKEN:
            self._house.ports.observer.upstream_failed(self._provider, "stream_broken")

    def _learn(self, asked: Asked, route: Route, key: KeyEntry) -> None:
        """Remember how long this answer was, for what the next ones hold at first."""
        placer, ending = self._house.authorizer.placer, self._hold.ending if self._hold else None
        if placer is not None and ending is not None and asked.endpoint.operation in ADAPTIVE:
            placer.usual.note(key.key_id, route.model, ending.usage.output_tokens)

    def _began(self, relay: StreamRelay | LargeRelay) -> None:
        """The client gets this answer as it comes: however it ends from now on, what was delivered is charged."""
        self.relay = relay

    async def _pass(self, wish: Wish) -> None:
        """Answer what costs nothing: forward, write down what it brings or takes away, pass on."""
        self._forwarded_us = self._house.ports.clock.elapsed_us()
        passage = Passage(self._house.free, self._client, wish, self._own_headers(), self._replays)
        self._provider = passage.provider
        await passage.run()
        self._received()

    def _replays(self, relay: ReplayRelay) -> None:
        self.relay = relay
        self._stream_opened()

    # ── what the stages share ───────────────────────────────────────────────────────────────────────────────────────

    def _delivery(
        self,
        asked: Asked,
        route: Route,
        forwarded: Forwarded,
        headers: list[tuple[bytes, bytes]],
        lowered_maximum: int | None,
    ) -> Delivery:
        hold, counting = self._hold, self._counting
        assert hold is not None
        assert counting is not None
        context = max(route.facts.context_tokens, hold.bound.input_tokens)
        limited = lowered_maximum is not None or counting.limited
        return Delivery(
            client=self._client,
            forwarded=forwarded,
            headers=headers,
            decoder=decoder_for(forwarded.answer.fields),
            hold=hold,
            counting=counting,
            operation=asked.endpoint.operation,
            ceiling=Ceiling(context, hold.bound.output_tokens if limited else max(context, hold.bound.output_tokens)),
            hidden_output=route.facts.reasoning,
            settings=self._house.settings,
            pool=self._house.pool,
            turns=self._house.turns,
            extension=self._extension,
        )

    def _expect_ids(self, asked: Asked, key: KeyEntry, delivery: Delivery) -> None:
        """Have what the answer brings written down before it goes out, if its client may mention it later."""
        ports = self._house.ports
        delivery.claims = claims_for(asked, ports.owners, ports.clock, key.account_id, self._provider)
        delivery.durable = ports.durable
        delivery.background = "background" in asked.endpoint.members and asked.members.boolean("background")

    def _stream_opened(self) -> None:
        self._streaming = True
        self._house.ports.observer.stream_opened()

    def _own_headers(self, lowered_maximum: int | None = None) -> list[tuple[bytes, bytes]]:
        headers = [(REQUEST_ID, self._request_id_text)]
        if lowered_maximum is not None:
            headers.append((b"x-meterproxy-max-tokens", b"%d" % lowered_maximum))
        if self._rated is not None:
            ports = self._house.ports
            headers += rate_headers(ports.ledger.rates(*self._rated, ports.clock.now_us()))
        return headers

    def _pass_error(self, forwarded: Forwarded, headers: list[tuple[bytes, bytes]]) -> None:
        """The provider refused the request: its words pass, nothing is charged."""
        hold, answer = self._hold, forwarded.answer
        assert hold is not None
        self._received()
        if answer.status >= 500:
            self._house.ports.observer.upstream_failed(self._provider, "server_error")
        hold.release(Outcome.PROVIDER_ERROR, answer.status)
        self._client.answer(answer.status, headers, forwarded.error_body or b"")

    def _received(self) -> None:
        """All that the provider sends is here."""
        self._upstream_us = self._house.ports.clock.elapsed_us() - self._forwarded_us

    async def _list_models(self, ids: tuple[str, ...], key: KeyEntry) -> None:
        models = self._house.models
        body = await (models.one(ids[0], key, self.started_us) if ids else models.listing(key, self.started_us))
        self._client.answer(200, [JSON_TYPE, *self._own_headers()], body)

    # ── when it does not go as planned ──────────────────────────────────────────────────────────────────────────────

    def cut_short(self, error: ApiError) -> None:
        """End this exchange at whatever it waits for; its client is told this error."""
        task = self._client.connection.task
        if task is not None and self._cut_short_by is None:
            self._cut_short_by = error
            task.cancel()

    async def _end_short(self, error: ApiError) -> None:
        task = asyncio.current_task()
        assert task is not None, "an exchange runs in its connection's task"
        task.uncancel()
        self._client.closing = True
        if self.relay is None:
            self._refuse(error)
            return
        try:
            await self.relay.break_off(error)
        except Exception:  # noqa: BLE001  whatever its relay fails of, the exchange ends
            _log.exception("an exchange could not be cut short", extra={"request_id": str(self.request_id)})
            self._refuse(error)

    def _refuse(self, error: ApiError) -> None:
        """Give back what was held, then answer with an error of our own."""
        client, house = self._client, self._house
        if error.case is Case.CREDIT_SPENT:
            error.status = house.settings.out_of_credit_status
        elif error.case is Case.HOST_DRAINED:
            client.closing = True  # the client's next connection may lead to another host
        house.ports.observer.refused(error.reason, self._route_name)
        if isinstance(error, Failed):
            house.ports.observer.upstream_failed(self._provider, error.reason)
            self._received()
        self._give_back(error)
        if client.answered_status is None:
            client.refuse(error, [*self._own_headers(), (b"x-request-id", self._request_id_text)])
        elif not client.ended:
            client.abort()

    def _give_back(self, error: ApiError) -> None:
        hold = self._hold
        if hold is None or not hold.open:
            return
        if self.relay is not None:
            self._capture_delivered(self.relay, hold)
            return
        outcome, sent = Outcome.UNREACHABLE, hold.confirmed
        if isinstance(error, Failed):
            outcome, sent = error.outcome, error.sent
        elif error.case is Case.UPSTREAM_TIMEOUT:
            outcome = Outcome.TIMED_OUT
        hold.release(outcome, error.status, self._consumed() if sent else None)

    def _consumed(self) -> Usage | None:
        """What a provider may charge for a request that it did not answer."""
        return None if self._counting is None else self._counting.estimate(0)

    def _capture_delivered(self, relay: StreamRelay | LargeRelay | ReplayRelay, hold: OpenHold) -> None:
        try:
            relay.resolve()
        except JournalFailed:
            return  # the ledger keeps the ending in memory, and the client's answer is cut off anyway
        except Exception:  # noqa: BLE001  what was delivered is charged although its meter fails
            _log.exception("what was delivered could not be read", extra={"request_id": str(self.request_id)})
            if hold.open:
                usage = self._consumed() or Usage(requests=1)
                measured = Measured(usage, UsageSource.ESTIMATED, ("meter_failed",))
                with contextlib.suppress(JournalFailed):
                    hold.capture(Outcome.STREAM_BROKEN, self._client.answered_status or 200, Reading(), measured)

    def _resolve(self) -> None:
        """The end of every exchange: no hold stays open, nothing stays taken."""
        hold, client, house = self._hold, self._client, self._house
        try:
            if hold is not None and hold.open:
                self._give_back(ApiError(Case.INTERNAL, "The exchange was abandoned."))
                if not client.ended:
                    client.abort()
        finally:
            if self._key_claim is not None:
                house.idempotency.end(self._key_claim, hold, self._cut_short_by)
            if self._streaming:
                house.ports.observer.stream_closed()
            house.room.give_back(client.body_bytes)
            client.body_bytes = 0
            house.ports.observer.finished(self._finished())
            if self.relay is not None:
                self.relay.close()

    def _finished(self) -> Finished:
        hold = self._hold
        return Finished(
            self._route_name,
            self._model,
            self._provider,
            self._client.answered_status or 0,
            self._streaming,
            self._house.ports.clock.elapsed_us() - self.begun_us,
            self._upstream_us,
            None if hold is None else hold.first_byte_us,
            None if hold is None else hold.ending,
            None if hold is None else hold.receipt,
        )
