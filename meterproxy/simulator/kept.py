"""Kept: what the provider remembers for its clients: responses, conversations, stored completions.

No I/O and no clock. What one caller has made any other can see: all that share a provider's account do.

Rules
-----
- A response in the background advances by one phase each time that somebody looks at it, so that nothing hangs on
  time: queued, in progress, then ended after as many looks as `phases` says.
- The oldest of a kind is forgotten when there are too many.
"""

from collections import OrderedDict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from meterproxy.simulator.refusal import Refusal
from meterproxy.simulator.responses import Item, begun

KEPT: Final = 10_000
PHASES: Final = 2
PAGE: Final = 20

Document = dict[str, Any]
Query = Mapping[str, str]
Kind = TypeVar("Kind")


@dataclass(slots=True)
class KeptResponse:
    """A stored response: how it ends, what it was asked, and how often it must be looked at until it has ended."""

    document: Document
    items: list[Item]
    events: tuple[bytes, ...] = ()
    looks_left: int = 0
    cancelled: bool = False

    def look(self) -> Document:
        """The response as it is now; looking at it brings it on."""
        self.looks_left = max(self.looks_left - 1, 0)
        return self.as_it_is()

    def as_it_is(self) -> Document:
        if self.cancelled:
            return begun(self.document, "cancelled")
        return begun(self.document, "in_progress") if self.looks_left else self.document


@dataclass(slots=True)
class KeptConversation:
    document: Document
    items: list[Item] = field(default_factory=list)


@dataclass(slots=True)
class KeptCompletion:
    document: Document
    messages: list[Document]


class Kept:
    """Everything that a provider has stored."""

    def __init__(self) -> None:
        self.responses: OrderedDict[str, KeptResponse] = OrderedDict()
        self.conversations: OrderedDict[str, KeptConversation] = OrderedDict()
        self.completions: OrderedDict[str, KeptCompletion] = OrderedDict()

    def clear(self) -> None:
        for kept in (self.responses, self.conversations, self.completions):
            kept.clear()

    # -- responses ---------------------------------------------------------------------------------------------------

    def history(self, document: Mapping[str, Any]) -> list[Item]:
        """The items that a request goes on from.

        Raises:
            Refusal: it names a response or a conversation that is not there.
        """
        previous, conversation = document.get("previous_response_id"), document.get("conversation")
        if previous is not None:
            kept = self.responses.get(previous)
            if kept is None:
                message = f"Previous response with id '{previous}' not found."
                raise Refusal(400, message, param="previous_response_id", code="previous_response_not_found")
            return [*kept.items, *kept.document["output"]]
        if conversation is not None:
            return list(self.conversation(_id_of(conversation)).items)
        return []

    def referred(self, items: Iterable[Item]) -> list[Item]:
        """Items, those that are only named completed from what is stored.

        Raises:
            Refusal: an item that is named is not there.
        """
        return [self._item(item["id"]) if item.get("type") == "item_reference" else item for item in items]

    def _item(self, id_: str) -> Item:
        for kept in self.responses.values():
            for item in (*kept.items, *kept.document["output"]):
                if item["id"] == id_:
                    return dict(item)
        for conversation in self.conversations.values():
            for item in conversation.items:
                if item["id"] == id_:
                    return item
        message = (
            f"Item with id '{id_}' not found. Items are not persisted when `store` is set to false. Try again with "
            "`store` set to true, or remove this item from your input."
        )
        raise Refusal(404, message, param="input")

    def keep_response(self, kept: KeptResponse, document: Mapping[str, Any], asked: list[Item]) -> None:
        """Store a response, and what was asked and answered in its conversation."""
        conversation = document.get("conversation")
        if conversation is not None:
            self.conversation(_id_of(conversation)).items += [*asked, *kept.document["output"]]
        if document.get("store") is not False:
            _keep(self.responses, kept.document["id"], kept)

    def response(self, id_: str) -> KeptResponse:
        """A stored response.

        Raises:
            Refusal: it is not there.
        """
        return _found(self.responses, id_, "Response")

    def cancel_response(self, id_: str) -> Document:
        """End a response that is being worked on.

        Raises:
            Refusal: it is not there, or was not made in the background.
        """
        kept = self.response(id_)
        if not kept.document["background"]:
            raise Refusal(400, "Cannot cancel a synchronous response.")
        kept.cancelled = kept.cancelled or kept.looks_left > 0
        return kept.as_it_is()

    def delete_response(self, id_: str) -> Document:
        self.response(id_)
        del self.responses[id_]
        return {"id": id_, "object": "response", "deleted": True}

    def response_items(self, id_: str, query: Query) -> Document:
        return page(self.response(id_).items, query, "desc")

    # -- conversations -----------------------------------------------------------------------------------------------

    def make_conversation(self, id_: str, now: float, document: Document, items: list[Item]) -> Document:
        made = {
            "id": id_,
            "object": "conversation",
            "created_at": int(now),
            "metadata": document.get("metadata") or {},
        }
        _keep(self.conversations, id_, KeptConversation(made, self.referred(items)))
        return made

    def conversation(self, id_: str) -> KeptConversation:
        """A conversation.

        Raises:
            Refusal: it is not there.
        """
        return _found(self.conversations, id_, "Conversation")

    def update_conversation(self, id_: str, document: Document) -> Document:
        kept = self.conversation(id_)
        kept.document = {**kept.document, "metadata": document.get("metadata") or {}}
        return kept.document

    def delete_conversation(self, id_: str) -> Document:
        self.conversation(id_)
        del self.conversations[id_]
        return {"id": id_, "object": "conversation.deleted", "deleted": True}

    def add_items(self, id_: str, items: list[Item]) -> Document:
        kept = self.conversation(id_)
        added = self.referred(items)
        kept.items += added
        return page(added, {"limit": str(len(added)), "order": "asc"}, "asc")

    def conversation_items(self, id_: str, query: Query) -> Document:
        return page(self.conversation(id_).items, query, "desc")

    def conversation_item(self, id_: str, item_id: str) -> Item:
        kept = self.conversation(id_)
        found = next((item for item in kept.items if item["id"] == item_id), None)
        if found is None:
            raise Refusal(404, f"Item with id '{item_id}' not found.")
        return found

    def delete_item(self, id_: str, item_id: str) -> Document:
        found = self.conversation_item(id_, item_id)
        kept = self.conversation(id_)
        kept.items.remove(found)
        return kept.document

    # -- stored completions ------------------------------------------------------------------------------------------

    def keep_completion(self, document: Document, request: Mapping[str, Any]) -> None:
        """Store a chat completion."""
        id_ = document["id"]
        messages = [{**message, "id": f"{id_}-{at}"} for at, message in enumerate(request["messages"])]
        stored = {**document, "metadata": request.get("metadata") or {}, "request_id": f"req_{id_[-12:]}"}
        _keep(self.completions, id_, KeptCompletion(stored, messages))

    def list_completions(self, query: Query) -> Document:
        wanted = [kept.document for kept in self.completions.values() if _matches(kept.document, query)]
        return page(wanted, query, "asc")

    def completion(self, id_: str) -> KeptCompletion:
        """A stored completion.

        Raises:
            Refusal: it is not there.
        """
        return _found(self.completions, id_, "Chat completion")

    def update_completion(self, id_: str, document: Document) -> Document:
        kept = self.completion(id_)
        kept.document = {**kept.document, "metadata": document.get("metadata") or {}}
        return kept.document

    def delete_completion(self, id_: str) -> Document:
        self.completion(id_)
        del self.completions[id_]
        return {"id": id_, "object": "chat.completion.deleted", "deleted": True}

    def completion_messages(self, id_: str, query: Query) -> Document:
        return page(self.completion(id_).messages, query, "asc")


def page(entries: list[Document], query: Query, usual_order: str) -> Document:
    """One page of a list, as `after`, `limit` and `order` ask for it."""
    ordered = entries if query.get("order", usual_order) == "asc" else entries[::-1]
    after = query.get("after")
    if after is not None:
        at = next((at for at, entry in enumerate(ordered) if entry["id"] == after), None)
        if at is None:
            raise Refusal(400, f"Invalid 'after': '{after}' is not in this list.", param="after")
        ordered = ordered[at + 1 :]
    limit = int(query.get("limit") or PAGE)
    shown = ordered[:limit]
    return {
        "object": "list",
        "data": shown,
        "first_id": shown[0]["id"] if shown else None,
        "last_id": shown[-1]["id"] if shown else None,
        "has_more": len(ordered) > limit,
    }


def _matches(document: Document, query: Query) -> bool:
    if query.get("model") not in {None, document["model"]}:
        return False
    wanted = {name[9:-1]: value for name, value in query.items() if name.startswith("metadata[")}
    return all(document["metadata"].get(name) == value for name, value in wanted.items())


def _id_of(named: Any) -> str:
    return named if isinstance(named, str) else str(named.get("id"))


def _keep(kept: OrderedDict[str, Kind], id_: str, thing: Kind) -> None:
    kept[id_] = thing
    if len(kept) > KEPT:
        kept.popitem(last=False)


def _found(kept: Mapping[str, Kind], id_: str, name: str) -> Kind:
    thing = kept.get(id_)
    if thing is None:
        raise Refusal(404, f"{name} with id '{id_}' not found.")
    return thing
