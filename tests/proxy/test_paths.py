"""Paths: what matches, what is nothing, and what a provider's path is made of."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproxy.proxy.paths import Paths, allowed_query, provider_path

PATHS = Paths(
    [
        ("/v1/chat/completions", "chat"),
        ("/v1/models", "models"),
        ("/v1/models/{model}", "model"),
        ("/v1/files/{file}/content", "content"),
        ("/v1/threads/{thread}/runs/{run}", "run"),
    ]
)

MATCHING = [
    ("/v1/chat/completions", "chat", ()),
    ("/v1/models", "models", ()),
    ("/v1/models/gpt-4o", "model", ("gpt-4o",)),
    ("/v1/models/ft:gpt-4o:org::a", "model", ("ft:gpt-4o:org::a",)),
    ("/v1/models/%40cf%2Fmeta%2fllama", "model", ("@cf/meta/llama",)),
    ("/v1/models/caf%C3%A9", "model", ("café",)),
    ("/v1/models/%2567", "model", ("%67",)),
    ("/v1/models/...", "model", ("...",)),
    ("/v1/files/f-1/content", "content", ("f-1",)),
    ("/v1/threads/t/runs/r", "run", ("t", "r")),
]


@pytest.mark.parametrize(("raw", "route", "ids"), MATCHING)
def test_matches(raw, route, ids):
    """A path that keeps the rules finds its template and its decoded ids."""
    assert PATHS.match(raw) == (route, ids)


@pytest.mark.parametrize(
    "raw",
    [
        "",
        "/",
        "v1/models",
        "*",
        "http://host/v1/models",
        "/v1/models/",
        "/v1//models",
        "//v1/models",
        "/v1/models//",
        "/V1/models",
        "/v1/Models",
        "/v1/chat/completions/",
        "/v1/chat%2Fcompletions",
        "/v1/chat/completion%73",
        "/v1/./models",
        "/v1/x/../models",
        "/v1/models/.",
        "/v1/models/..",
        "/v1/models/%2e",
        "/v1/models/%2E%2e",
        "/v1/models/.%2e",
        "/v1/models/a%2F..%2Fb",
        "/v1/models/%2Fa",
        "/v1/models/a%2F%2Fb",
        "/v1/models/a%5Cb",
        "/v1/models/a%00",
        "/v1/models/a%0A",
        "/v1/models/a%7F",
        "/v1/models/a%C2%85",
        "/v1/models/a%",
        "/v1/models/a%2",
        "/v1/models/a%zz",
        "/v1/models/%FF",
        "/v1/models/a b",
        "/v1/models/a\tb",
        "/v1/models/a\x00",
        "/v1/models/é",
        "/v1/models/a?b",
        "/v1/models/a#b",
        "/v1/models/a\\b",
        '/v1/models/"a"',
        "/v1/models/" + "a" * 600,
        "/v1/files/../content",
        "/v1/files//content",
        "/v1/unknown",
    ],
)
def test_matches_nothing(raw):
    """Whatever breaks a rule is nothing."""
    assert PATHS.match(raw) is None


def test_a_literal_template_wins_over_an_id():
    """An exact path is found before a template with ids."""
    paths = Paths([("/v1/{any}", "id"), ("/v1/models", "literal")])
    assert paths.match("/v1/models").route == "literal"
    assert paths.match("/v1/other").route == "id"


@pytest.mark.parametrize(
    ("template", "ids", "path"),
    [
        ("/models", (), "/models"),
        ("/models/{model}", ("gpt-4o",), "/models/gpt-4o"),
        ("/models/{model}", ("@cf/meta/llama",), "/models/%40cf%2Fmeta%2Fllama"),
        ("/models/{model}", ("a?b#c d%",), "/models/a%3Fb%23c%20d%25"),
        ("/threads/{thread}/runs/{run}", ("{run}", "é"), "/threads/%7Brun%7D/runs/%C3%A9"),
    ],
)
def test_the_provider_path_is_built_from_the_template(template, ids, path):
    """Ids are encoded so that each stays one segment."""
    assert provider_path(template, ids) == path


@pytest.mark.parametrize(
    ("template", "ids"), [("/models", ("a",)), ("/models/{model}", ()), ("/models/{model}", ("a", "b"))]
)
def test_ids_must_fit_the_template(template, ids):
    """Too few or too many ids are a fault of ours."""
    with pytest.raises(ValueError, match="do not fit"):
        provider_path(template, ids)


@given(st.text(max_size=20))
def test_any_text_as_a_path_is_matched_or_not(text):
    """No text breaks the matcher; what it finds goes to the provider as one segment of plain ASCII."""
    match = PATHS.match("/v1/models/" + text)
    if match is not None and match.route == "model":
        built = provider_path("/models/{model}", match.ids)
        assert built.isascii()
        assert built.count("/") == 2
        assert PATHS.match("/v1" + built) == match


@pytest.mark.parametrize(
    ("raw", "passed"),
    [
        ("", ""),
        ("limit=5&secret=1", "limit=5"),
        ("after=a%20b&limit=5", "after=a%20b&limit=5"),
        ("include[]=a&include%5B%5D=b&include=c", "include[]=a&include%5B%5D=b&include=c"),
        ("limit", "limit"),
        ("limit=a b", ""),
        ("limit=%zz", ""),
        ("limit=a\r\nX: y", ""),
        ("li%6Dit=5", ""),
        ("LIMIT=5", ""),
        ("limit=" + "5" * 5000, ""),
        ("&&limit=5&", "limit=5"),
    ],
)
def test_a_query_passes_by_its_names(raw, passed):
    """Only listed names pass, as the client wrote them."""
    assert allowed_query(raw, frozenset({"limit", "after", "include"})) == passed
    assert allowed_query(raw, frozenset()) == ""
