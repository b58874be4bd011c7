"""Claims: what an answer brings into the world is written down as its account's before it goes out.

Rules
-----
- An id that could not be written down must not reach the client: `JournalFailed` passes to the caller.
- What a provider does not keep cannot be mentioned later, and is not claimed: a response with `store: false`, a chat
  completion without `store: true`.
- An id that could not be mentioned anyway (`ownable`) needs no owner.
"""

from collections.abc import Iterable
from typing import Final
from uuid import UUID

from meterproxy.core.resource import Resource, ownable
from meterproxy.proxy.accept import Asked
from meterproxy.proxy.new_ids import OWN, Found, audio_ids, ids_in_answer
from meterproxy.proxy.ports import Clock, Owners

_AUDIO: Final = b'"audio"'


class Claims:
    """Writes down what the answers of one exchange bring.

    Args:
        provider: the configured name of where the request went.
        kind: what an answer's own id names, None if it is not kept.
        items: the member of a plain answer that lists items.
        speaks: whether it may have audio.
    """

    __slots__ = ("_account_id", "_clock", "_items", "_kind", "_owners", "_provider", "_speaks")

    def __init__(
        self,
        owners: Owners,
        clock: Clock,
        account_id: UUID,
        provider: str,
        kind: str | None,
        items: str | None,
        *,
        speaks: bool = False,
    ) -> None:
        self._owners = owners
        self._clock = clock
        self._account_id = account_id
        self._provider = provider
        self._kind = kind
        self._items = items
        self._speaks = speaks

    def resource(self, kind: str, resource_id: str) -> Resource:
        """A resource of this exchange's account at its provider."""
        return Resource(self._account_id, kind, resource_id, self._provider)

    def take_answer(self, body: bytes) -> None:
        """Claim what a plain answer brings. Raises JournalFailed."""
        self.take(ids_in_answer(body, own=self._kind is not None, items=self._items))
        if self._speaks:
            self.take(audio_ids(body))

    def take(self, found: Iterable[Found]) -> None:
        """Claim these ids. Raises JournalFailed."""
        for named, id_ in found:
            kind = self._kind if named == OWN else named
            if kind is None or not ownable(id_):
                continue
            if not isinstance(self._owners.known(self._account_id, kind, id_), Resource):
                self._owners.claim(self.resource(kind, id_), self._clock.now_us())


def keeps(asked: Asked) -> bool:
    """Whether an answer may bring anything that its client can mention later; asked before the request is sent.

    Raises:
        ApiError: MALFORMED where `store` or `background` is no boolean.
    """
    endpoint = asked.endpoint
    if endpoint.creates is None or (endpoint.kept_if_any and asked.members.none_of(endpoint.kept_if_any)):
        return False
    return _kind_kept(asked) is not None or endpoint.items is not None or _speaks(asked)


def claims_for(asked: Asked, owners: Owners, clock: Clock, account_id: UUID, provider: str) -> Claims:
    """Who writes down what the answer to such a request brings."""
    items = asked.endpoint.items
    return Claims(owners, clock, account_id, provider, _kind_kept(asked), items, speaks=_speaks(asked))


def _speaks(asked: Asked) -> bool:
    return asked.endpoint.speaks and _AUDIO in (asked.members.raw("modalities") or b"")


def _kind_kept(asked: Asked) -> str | None:
    """The kind of what an answer's own id names, if it is kept; work in the background always is."""
    endpoint, members = asked.endpoint, asked.members
    if endpoint.creates is None or endpoint.stored_by_default is None:
        return endpoint.creates
    stored = endpoint.stored_by_default if members.absent("store") else members.boolean("store")
    background = "background" in endpoint.members and members.boolean("background")
    return endpoint.creates if stored or background else None
