"""The table of endpoints: what is served, and that every row is complete."""

import pytest

from meterproxy.core.bound import OPERATION_BOUNDS, ModelFacts
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.endpoints import ENDPOINTS, find_endpoint
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
        ("POST", "/v1/responses", Case.PATH_UNKNOWN),
        ("POST", "/v1/chat/completions/x", Case.PATH_UNKNOWN),
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


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.template)
def test_rows_are_complete(endpoint) -> None:
    """What is forwarded can be bounded and metered, and every member that bounds it is read."""
    if not endpoint.members:
        return
    row = OPERATION_BOUNDS[endpoint.operation]
    assert endpoint.operation in SHAPES
    assert endpoint.members.issuperset((*row.maxima, *row.choices, *row.outside, "model"))
    assert endpoint.upstream_template.startswith("/")
    if endpoint.maximum is not None:
        assert endpoint.maximum in row.maxima
    if endpoint.streams:
        assert {"stream", "stream_options"} <= endpoint.members


def test_models_that_think_are_limited_by_their_own_member() -> None:
    """The member that limits answers depends on the model."""
    chat = ENDPOINTS[0]
    assert chat.maximum_for(ModelFacts(1, 1)) == "max_tokens"
    assert chat.maximum_for(ModelFacts(1, 1, reasoning=True)) == "max_completion_tokens"
    assert ENDPOINTS[1].maximum_for(ModelFacts(1, 1, reasoning=True)) == "max_tokens"
