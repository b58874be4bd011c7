"""The table of endpoints: what is served, and that every row is complete."""

from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest

from meterproxy.core.bound import OPERATION_BOUNDS, ModelFacts
from meterproxy.core.key import OPERATIONS
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.endpoints import ENDPOINTS, WITHIN, Endpoint, Way, find_endpoint
from meterproxy.proxy.ownership import WORDS
from meterproxy.proxy.usage_shapes import SHAPES


@pytest.mark.parametrize(
    ("method", "target", "template", "ids"),
    [
        ("POST", "/v1/chat/completions", "/v1/chat/completions", ()),
        ("POST", "/v1/chat/completions?x=1", "/v1/chat/completions", ()),
        ("POST", "/v1/completions", "/v1/completions", ()),
        ("POST", "/v1/embeddings", "/v1/embeddings", ()),
        ("GET", "/v1/models", "/v1/models", ()),
        ("HEAD", "/v1/models", "/v1/models", ()),
        ("GET", "/v1/models/gpt-4o", "/v1/models/{model}", ("gpt-4o",)),
        ("POST", "/v1/responses", "/v1/responses", ()),
        ("POST", "/v1/responses/compact", "/v1/responses/compact", ()),
        ("GET", "/v1/responses/resp_1?stream=true", "/v1/responses/{response_id}", ("resp_1",)),
        ("POST", "/v1/responses/resp_1/cancel", "/v1/responses/{response_id}/cancel", ("resp_1",)),
        ("DELETE", "/v1/chat/completions/x", "/v1/chat/completions/{completion_id}", ("x",)),
        (
            "GET",
            "/v1/conversations/conv_1/items/msg_1",
            "/v1/conversations/{conversation_id}/items/{item_id}",
            ("conv_1", "msg_1"),
        ),
        ("GET", "/v1/models/@cf%2Fmeta%2Fllama", "/v1/models/{model}", ("@cf/meta/llama",)),
    ],
)
def test_find(method: str, target: str, template: str, ids: tuple[str, ...]) -> None:
    """A served path finds its row and its ids."""
    match = find_endpoint(method, target)
    assert (match.route.template, match.ids) == (template, ids)


@pytest.mark.parametrize(
    ("method", "target", "case"),
    [
        ("POST", "/v1/responses/", Case.PATH_UNKNOWN),
        ("GET", "/v1/responses/resp_1/events", Case.PATH_UNKNOWN),
        ("POST", "/v1/realtime/client_secrets", Case.PATH_UNKNOWN),
        ("GET", "/v1/responses", Case.METHOD_NOT_ALLOWED),
        ("PUT", "/v1/chat/completions/x", Case.METHOD_NOT_ALLOWED),
        ("POST", "/v1/chat//completions", Case.PATH_UNKNOWN),
        ("POST", "/v1/CHAT/completions", Case.PATH_UNKNOWN),
        ("GET", "/v1/models/", Case.PATH_UNKNOWN),
        ("GET", "/v1/models/..", Case.PATH_UNKNOWN),
        ("GET", "/v1/models/\x00", Case.PATH_UNKNOWN),
        ("PUT", "/v1/models", Case.METHOD_NOT_ALLOWED),
        ("OPTIONS", "/v1/chat/completions", Case.METHOD_NOT_ALLOWED),
    ],
)
def test_refused(method: str, target: str, case: Case) -> None:
    """What has no row is refused, and the refusal shows no raw bytes."""
    with pytest.raises(ApiError) as refusal:
        find_endpoint(method, target)
    assert refusal.value.case is case
    assert refusal.value.message.isprintable()
    assert ("Allow" in refusal.value.headers) == (case is Case.METHOD_NOT_ALLOWED)


def name_of(endpoint: Endpoint) -> str:
    return f"{endpoint.method} {endpoint.template}"


METERED = [endpoint for endpoint in ENDPOINTS if endpoint.way is Way.METERED]
FORWARDED = [endpoint for endpoint in ENDPOINTS if endpoint.way is not Way.OURS]
FREE_OPERATIONS = {"moderation"}
"""Operations whose answers tell no usage; what they read is counted."""


@pytest.mark.parametrize("endpoint", METERED, ids=name_of)
def test_metered_rows_are_complete(endpoint: Endpoint) -> None:
    """What is metered can be bounded and read, and every member that bounds it is read."""
    row = OPERATION_BOUNDS[endpoint.operation]
    assert endpoint.operation in SHAPES or endpoint.operation in FREE_OPERATIONS
    assert endpoint.members.issuperset((*row.choices, *row.outside, "model"))
    assert endpoint.maximum is None or endpoint.members.issuperset(row.maxima)
    assert endpoint.maximum is None or endpoint.maximum in row.maxima
    assert not endpoint.streams or "stream" in endpoint.members
    assert not endpoint.takes_usage_option or "stream_options" in endpoint.members
    assert endpoint.tool_calls_maximum is None or endpoint.tool_calls_maximum in endpoint.members
    assert endpoint.stored_by_default is None or "store" in endpoint.members


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
def test_every_id_in_a_path_has_an_owner(endpoint: Endpoint) -> None:
    """A row says of each id in its path what it names; what is sought within another has that other before it."""
    assert len(endpoint.ids) == endpoint.template.count("{")
    if endpoint.way is not Way.OURS:
        assert all(kind in WORDS for kind in endpoint.ids if kind != WITHIN)
        assert not endpoint.ids or endpoint.ids[0] != WITHIN


@pytest.mark.parametrize("endpoint", FORWARDED, ids=name_of)
def test_rows_agree_with_themselves(endpoint: Endpoint) -> None:
    """Members that may mention something are read, and all kinds that a row names are known."""
    assert endpoint.operation in OPERATIONS
    assert endpoint.members.issuperset(endpoint.mentions)
    assert {kind for kind in (endpoint.creates, endpoint.cursor, endpoint.lists) if kind} <= WORDS.keys()
    assert endpoint.lists is None or endpoint.cursor == endpoint.lists
    assert not endpoint.deletes or (endpoint.method == "DELETE" and endpoint.ids)
    assert not endpoint.members or endpoint.method == "POST"
    assert endpoint.upstream_template.startswith("/")


def sdk_members(name: str) -> set[str]:
    """The members of a request as OpenAI's own SDK types them."""
    module, _, params = name.rpartition(".")
    return set(get_type_hints(getattr(import_module(f"openai.types.{module}"), params)))


MEMBERS_OF_REQUESTS = {
    "/v1/chat/completions": "chat.completion_create_params.CompletionCreateParamsNonStreaming",
    "/v1/responses": "responses.response_create_params.ResponseCreateParamsNonStreaming",
    "/v1/responses/compact": "responses.response_compact_params.ResponseCompactParams",
    "/v1/responses/input_tokens": "responses.input_token_count_params.InputTokenCountParams",
    "/v1/conversations": "conversations.conversation_create_params.ConversationCreateParams",
    "/v1/conversations/{conversation_id}/items": "conversations.item_create_params.ItemCreateParams",
    "/v1/chat/completions/{completion_id}": "chat.completion_update_params.CompletionUpdateParams",
    "/v1/conversations/{conversation_id}": "conversations.conversation_update_params.ConversationUpdateParams",
    "/v1/moderations": "moderation_create_params.ModerationCreateParams",
    "/v1/completions": "completion_create_params.CompletionCreateParamsNonStreaming",
    "/v1/embeddings": "embedding_create_params.EmbeddingCreateParams",
}
"""By path, where a body is forwarded."""

UNMENTIONING = set(
    "access_programs background background_options context_management image include instructions max_output_tokens"
    " max_tool_calls metadata model moderation parallel_tool_calls personality prompt_cache_key prompt_cache_retention"
    " reasoning safety_identifier service_tier store stream stream_options temperature text top_logprobs top_p"
    " truncation user frequency_penalty function_call functions logit_bias logprobs max_completion_tokens"
    " max_tokens modalities n prediction presence_penalty reasoning_effort response_format seed stop verbosity"
    " web_search_options best_of echo suffix dimensions encoding_format tools tool_choice prompt_cache_options input"
    " prompt".split()
)
"""Members of requests in which nothing is mentioned, those of a row's `mentions` apart."""


@pytest.mark.parametrize("endpoint", [row for row in FORWARDED if row.members], ids=name_of)
def test_every_member_is_known_to_mention_or_not(endpoint: Endpoint) -> None:
    """A member that OpenAI adds to a request fails here until somebody has said whether it mentions anything."""
    members = sdk_members(MEMBERS_OF_REQUESTS[endpoint.template])
    assert members - set(endpoint.mentions) - UNMENTIONING == set()


MENTIONING = {
    "/v1/responses": {
        "previous_response_id",
        "conversation",
        "prompt",
        "prompt_cache_options",
        "input",
        "tools",
        "tool_choice",
    },
    "/v1/chat/completions": {"messages", "audio"},
    "/v1/conversations": {"items"},
    "/v1/conversations/{conversation_id}/items": {"items"},
}


@pytest.mark.parametrize("path", MENTIONING)
def test_what_may_mention_is_looked_at(path: str) -> None:
    """The members that can name something are in the row."""
    endpoint = find_endpoint("POST", path.replace("{conversation_id}", "conv_1")).route
    assert set(endpoint.mentions) == MENTIONING[path]


def test_docs_list_every_endpoint() -> None:
    """docs/endpoints.md has a row for each, with its operation and its way."""
    text = (Path(__file__).parents[2] / "docs" / "endpoints.md").read_text()
    rows = {}
    for line in text.splitlines():
        if line.startswith("| `") and "/v1/" in line:
            cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")]
            rows[cells[0]] = (cells[1], cells[2])
    assert rows == {name_of(endpoint): (endpoint.operation, endpoint.way.value) for endpoint in ENDPOINTS}


def test_models_that_think_are_limited_by_their_own_member() -> None:
    """The member that limits answers depends on the model."""
    chat = ENDPOINTS[0]
    assert chat.maximum_for(ModelFacts(1, 1)) == "max_tokens"
    assert chat.maximum_for(ModelFacts(1, 1, reasoning=True)) == "max_completion_tokens"
    assert ENDPOINTS[1].maximum_for(ModelFacts(1, 1, reasoning=True)) == "max_tokens"
