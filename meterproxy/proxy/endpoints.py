"""Endpoints: one row per path that the data plane serves; everything that differs between them is in the row.

Rules
-----
- A path without a row is refused, never passed on.
- The provider's path is built from the row, never from the client's bytes.
- `members` names every member of the body that is read anywhere; what is not named cannot be read or changed.
- How an operation is bounded is its row in `core.bound.OPERATION_BOUNDS`, how its usage is read its row in
  `proxy.usage_shapes.SHAPES`.
- Every id in a path has its kind in the row, every member that may name a resource is in `mentions`, and what an
  answer brings into the world is in `creates` and `items`: all tenants share the provider's account.
- A request that names no model goes to the provider of the resource that it names, else to the first one configured.
"""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from meterproxy.core.bound import ModelFacts
from meterproxy.core.resource import CHAT_COMPLETION, CONVERSATION, ITEM, RESPONSE
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.mentions import CHAT_MARKS, MARKS, Marks
from meterproxy.proxy.paths import Match, Paths
from meterproxy.proxy.request_facts import members_read

DATA_PLANE: Final = "/v1"
WITHIN: Final = ""
"""The kind of an id that is looked for only within the resource named before it, such as an item of a conversation."""


class Way(Enum):
    """How the requests of an endpoint are answered."""

    METERED = "metered"
    """Held, forwarded, and booked by what it turned out to cost."""
    FREE = "free"
    """Forwarded; it costs nothing, so nothing is held and nothing booked."""
    OURS = "ours"
    """Answered by ourselves."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is done with the requests of one method and path.

    Args:
        method: in upper case.
        template: the path as the client asks for it, ids as `{name}`.
        operation: the glossary's name of what is asked.
        way: how requests are answered.
        members: the members of the body that are read; none where no body is forwarded.
        streams: whether the client may ask for a stream.
        takes_usage_option: whether its streams tell usage only if `stream_options` asks for it.
        maximum: the member that limits an answer's tokens, None where answers have no length.
        reasoning_maximum: the same for models that think before they answer.
        tool_calls_maximum: the member that limits how often the provider runs tools.
        default_model: the model of a request that names none.
        ids: the kinds of the path's ids, in order.
        mentions: the members of the body that may name resources.
        marks: finds what a body has where it names any.
        query: the parameters that pass, by name.
        cursor: the kind of what `after` names, where that is not within the path's resource.
        creates: the kind of what the answer's own `id` names, if its client may mention that later.
        stored_by_default: whether it is kept if the request's `store` does not say; None where that is no question.
        kept_if_any: the members of which one is there if anything of the answer can be mentioned later; none: always.
        speaks: whether an answer may have audio that can be mentioned later.
        items: the member of the answer that lists items which may be mentioned later.
        lists: the kind of what the answer lists for all tenants, so that the others' must be taken out.
        deletes: whether success means that the path's resource is gone.
    """

    method: str
    template: str
    operation: str
    way: Way = Way.METERED
    members: frozenset[str] = frozenset()
    streams: bool = False
    takes_usage_option: bool = False
    maximum: str | None = None
    reasoning_maximum: str | None = None
    tool_calls_maximum: str | None = None
    default_model: str | None = None
    ids: tuple[str, ...] = ()
    mentions: tuple[str, ...] = ()
    marks: Marks = MARKS
    query: frozenset[str] = frozenset()
    cursor: str | None = None
    creates: str | None = None
    stored_by_default: bool | None = None
    kept_if_any: frozenset[str] = frozenset()
    speaks: bool = False
    items: str | None = None
    lists: str | None = None
    deletes: bool = False

    @property
    def upstream_template(self) -> str:
        """The path below a provider's base URL."""
        return self.template.removeprefix(DATA_PLANE)

    def maximum_for(self, facts: ModelFacts) -> str | None:
        """The member by which this model's answers can be limited."""
        return self.reasoning_maximum if facts.reasoning and self.reasoning_maximum else self.maximum


_PAGE: Final = frozenset({"after", "limit", "order"})
_INCLUDE: Final = frozenset({"include"})
_RESPONSE_MENTIONS: Final = (
    "previous_response_id",
    "conversation",
    "prompt",
    "prompt_cache_options",
    "input",
    "tools",
    "tool_choice",
)
_RESPONSE: Final = "/v1/responses/{response_id}"
_COMPLETION: Final = "/v1/chat/completions/{completion_id}"
_CONVERSATION: Final = "/v1/conversations/{conversation_id}"

_METERED: Final = (
    Endpoint(
        "POST",
        "/v1/chat/completions",
        "chat",
        members=members_read("chat") | {"store", "audio"},
        streams=True,
        takes_usage_option=True,
        maximum="max_tokens",
        reasoning_maximum="max_completion_tokens",
        mentions=("messages", "audio"),
        marks=CHAT_MARKS,
        creates=CHAT_COMPLETION,
        stored_by_default=False,
        kept_if_any=frozenset({"store", "modalities"}),
        speaks=True,
    ),
    Endpoint(
        "POST",
        "/v1/completions",
        "completion",
        members=members_read("completion"),
        streams=True,
        takes_usage_option=True,
        maximum="max_tokens",
    ),
    Endpoint("POST", "/v1/embeddings", "embedding", members=members_read("embedding")),
    Endpoint(
        "POST",
        "/v1/responses",
        "response",
        members=members_read("response").union(_RESPONSE_MENTIONS, {"store", "background"}),
        streams=True,
        maximum="max_output_tokens",
        tool_calls_maximum="max_tool_calls",
        mentions=_RESPONSE_MENTIONS,
        creates=RESPONSE,
        stored_by_default=True,
        items="output",
    ),
    Endpoint(
        "POST",
        "/v1/responses/compact",
        "response",
        members=members_read("response").union(_RESPONSE_MENTIONS) - {"max_output_tokens"},
        mentions=_RESPONSE_MENTIONS,
        creates=RESPONSE,
        items="output",
    ),
    Endpoint(
        "POST",
        "/v1/moderations",
        "moderation",
        members=members_read("moderation"),
        default_model="omni-moderation-latest",
    ),
)

_FREE: Final = (
    Endpoint(
        "POST",
        "/v1/responses/input_tokens",
        "response",
        Way.FREE,
        members=frozenset({"model", *_RESPONSE_MENTIONS}),
        mentions=_RESPONSE_MENTIONS,
    ),
    Endpoint(
        "GET",
        _RESPONSE,
        "response",
        Way.FREE,
        ids=(RESPONSE,),
        query=_INCLUDE | {"include_obfuscation", "starting_after", "stream"},
        items="output",
    ),
    Endpoint("DELETE", _RESPONSE, "response", Way.FREE, ids=(RESPONSE,), deletes=True),
    Endpoint("POST", f"{_RESPONSE}/cancel", "response", Way.FREE, ids=(RESPONSE,), items="output"),
    Endpoint(
        "GET", f"{_RESPONSE}/input_items", "response", Way.FREE, ids=(RESPONSE,), query=_PAGE | _INCLUDE, items="data"
    ),
    Endpoint(
        "GET",
        "/v1/chat/completions",
        "chat",
        Way.FREE,
        query=_PAGE | {"metadata", "model"},
        cursor=CHAT_COMPLETION,
        lists=CHAT_COMPLETION,
    ),
    Endpoint("GET", _COMPLETION, "chat", Way.FREE, ids=(CHAT_COMPLETION,)),
    Endpoint("POST", _COMPLETION, "chat", Way.FREE, members=frozenset({"metadata"}), ids=(CHAT_COMPLETION,)),
    Endpoint("DELETE", _COMPLETION, "chat", Way.FREE, ids=(CHAT_COMPLETION,), deletes=True),
    Endpoint("GET", f"{_COMPLETION}/messages", "chat", Way.FREE, ids=(CHAT_COMPLETION,), query=_PAGE),
    Endpoint(
        "POST",
        "/v1/conversations",
        "response",
        Way.FREE,
        members=frozenset({"items", "metadata"}),
        mentions=("items",),
        creates=CONVERSATION,
    ),
    Endpoint("GET", _CONVERSATION, "response", Way.FREE, ids=(CONVERSATION,)),
    Endpoint("POST", _CONVERSATION, "response", Way.FREE, members=frozenset({"metadata"}), ids=(CONVERSATION,)),
    Endpoint("DELETE", _CONVERSATION, "response", Way.FREE, ids=(CONVERSATION,), deletes=True),
    Endpoint(
        "POST",
        f"{_CONVERSATION}/items",
        "response",
        Way.FREE,
        members=frozenset({"items"}),
        ids=(CONVERSATION,),
        mentions=("items",),
        query=_INCLUDE,
        items="data",
    ),
    Endpoint(
        "GET",
        f"{_CONVERSATION}/items",
        "response",
        Way.FREE,
        ids=(CONVERSATION,),
        query=_PAGE | _INCLUDE,
        items="data",
    ),
    Endpoint(
        "GET",
        f"{_CONVERSATION}/items/{{item_id}}",
        "response",
        Way.FREE,
        ids=(CONVERSATION, WITHIN),
        query=_INCLUDE,
        creates=ITEM,
    ),
    Endpoint("DELETE", f"{_CONVERSATION}/items/{{item_id}}", "response", Way.FREE, ids=(CONVERSATION, WITHIN)),
)

_OURS: Final = (
    Endpoint("GET", "/v1/models", "model", Way.OURS),
    Endpoint("GET", "/v1/models/{model}", "model", Way.OURS, ids=(WITHIN,)),
)

ENDPOINTS: Final = (*_METERED, *_FREE, *_OURS)

Rows = dict[str, Endpoint]


def _by_template() -> dict[str, Rows]:
    rows: dict[str, Rows] = {}
    for endpoint in ENDPOINTS:
        rows.setdefault(endpoint.template, {})[endpoint.method] = endpoint
        if endpoint.method == "GET":
            rows[endpoint.template]["HEAD"] = endpoint
    return rows


_PATHS: Final = Paths(_by_template().items())


def find_endpoint(method: str, target: str) -> Match[Endpoint]:
    """The row for a request's method and raw target, with the ids in its path.

    Raises:
        ApiError: PATH_UNKNOWN, METHOD_NOT_ALLOWED.
    """
    path = target.partition("?")[0]
    match = _PATHS.match(path)
    if match is None:
        raise ApiError(Case.PATH_UNKNOWN, f"Unknown request URL: {method} {_excerpt(path)}.")
    endpoint = match.route.get(method)
    if endpoint is None:
        allowed = ", ".join(sorted(match.route))
        raise ApiError(
            Case.METHOD_NOT_ALLOWED, f"Not allowed to {method} on {_excerpt(path)}.", headers={"Allow": allowed}
        )
    return Match(endpoint, match.ids)


def _excerpt(path: str) -> str:
    """A path as it may be shown in an error: short, printable ASCII."""
    return path[:200].encode("ascii", "replace").decode() if path.isprintable() else "(unprintable)"
