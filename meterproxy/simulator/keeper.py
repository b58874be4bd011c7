"""Keeper: the requests about what a provider has stored, as one table of paths and what answers them.

An answer is a document, or the events of a stream.
"""

from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from meterproxy.simulator.kept import Document, Kept
from meterproxy.simulator.models import find_model
from meterproxy.simulator.refusal import Refusal
from meterproxy.simulator.responses import input_items, prompt_of

USUAL_MODEL: Final = "gpt-4o"
"""Whose tokenizer counts input where no model is named."""


class Asked(NamedTuple):
    """A request about what is kept; `new_id` is for what it may make."""

    ids: tuple[str, ...]
    query: Mapping[str, str]
    document: Document
    now: float
    new_id: str


Answer = Document | tuple[bytes, ...]


class Route(NamedTuple):
    method: str
    path: str
    answer: Callable[[Kept, Asked], Answer]


def _show_response(kept: Kept, asked: Asked) -> Answer:
    response = kept.response(asked.ids[0])
    if asked.query.get("stream") != "true":
        return response.look()
    response.looks_left = 0
    return response.events[int(asked.query.get("starting_after", -1)) + 1 :]


def _count_response(kept: Kept, asked: Asked) -> Answer:
    document = asked.document
    model = find_model(document.get("model") or USUAL_MODEL)
    if model is None:
        raise Refusal(404, "The requested model does not exist.", param="model", code="model_not_found")
    items = [*kept.history(document), *kept.referred(input_items(document, asked.new_id))]
    return {"object": "response.input_tokens", "input_tokens": prompt_of(document, items, model).tokens}


def _make_conversation(kept: Kept, asked: Asked) -> Answer:
    items = input_items({"input": asked.document.get("items")}, asked.new_id)
    return kept.make_conversation(f"conv_{asked.new_id}", asked.now, asked.document, items)


def _add_items(kept: Kept, asked: Asked) -> Answer:
    return kept.add_items(asked.ids[0], input_items({"input": asked.document.get("items")}, asked.new_id))


_RESPONSE: Final = "/v1/responses/{a}"
_COMPLETION: Final = "/v1/chat/completions/{a}"
_CONVERSATION: Final = "/v1/conversations/{a}"

ROUTES: Final = (
    Route("POST", "/v1/responses/input_tokens", _count_response),
    Route("GET", _RESPONSE, _show_response),
    Route("DELETE", _RESPONSE, lambda kept, asked: kept.delete_response(asked.ids[0])),
    Route("POST", f"{_RESPONSE}/cancel", lambda kept, asked: kept.cancel_response(asked.ids[0])),
    Route("GET", f"{_RESPONSE}/input_items", lambda kept, asked: kept.response_items(asked.ids[0], asked.query)),
    Route("GET", "/v1/chat/completions", lambda kept, asked: kept.list_completions(asked.query)),
    Route("GET", _COMPLETION, lambda kept, asked: kept.completion(asked.ids[0]).document),
    Route("POST", _COMPLETION, lambda kept, asked: kept.update_completion(asked.ids[0], asked.document)),
    Route("DELETE", _COMPLETION, lambda kept, asked: kept.delete_completion(asked.ids[0])),
    Route("GET", f"{_COMPLETION}/messages", lambda kept, asked: kept.completion_messages(asked.ids[0], asked.query)),
    Route("POST", "/v1/conversations", _make_conversation),
    Route("GET", _CONVERSATION, lambda kept, asked: kept.conversation(asked.ids[0]).document),
    Route("POST", _CONVERSATION, lambda kept, asked: kept.update_conversation(asked.ids[0], asked.document)),
    Route("DELETE", _CONVERSATION, lambda kept, asked: kept.delete_conversation(asked.ids[0])),
    Route("POST", f"{_CONVERSATION}/items", _add_items),
    Route("GET", f"{_CONVERSATION}/items", lambda kept, asked: kept.conversation_items(asked.ids[0], asked.query)),
    Route(
        "GET", f"{_CONVERSATION}/items/{{b}}", lambda kept, asked: kept.conversation_item(asked.ids[0], asked.ids[1])
    ),
    Route("DELETE", f"{_CONVERSATION}/items/{{b}}", lambda kept, asked: kept.delete_item(asked.ids[0], asked.ids[1])),
)
