"""Headers: what reaches the provider, what reaches the client, and what a request belongs to."""

import pytest

from meterproxy.errors import ApiError
from meterproxy.proxy.headers import Attribution, attribution, to_client, to_provider


def lines(text):
    pairs = [line.strip().split(": ", 1) for line in text.strip().splitlines()]
    return [(name.encode(), value.encode()) for name, value in pairs]


REQUEST = lines("""
    Host: proxy.example
    Authorization: Bearer mp-secret
    X-Api-Key: mp-secret
    API-Key: other
    Cookie: a=b
    Connection: keep-alive, X-Private
    X-Private: 1
    Keep-Alive: timeout=5
    TE: trailers
    Trailer: x
    Transfer-Encoding: chunked
    Upgrade: h2c
    Proxy-Authorization: Basic x
    Content-Length: 5
    Expect: 100-continue
    Content-Type: application/json
    Accept: */*
    Accept-Encoding: gzip, br
    User-Agent: OpenAI/Python
    OpenAI-Organization: org-1
    OpenAI-Project: p
    OpenAI-Beta: assistants=v2
    Forwarded: for=1.2.3.4
    X-Forwarded-For: 1.2.3.4
    x-forwarded-proto: https
    X-Real-IP: 1.2.3.4
    CF-Connecting-IP: 1.2.3.4
    cf-ray: 1
    X-Meterproxy-Tags: a=b
    Idempotency-Key: mine
    X-Stainless-Lang: python
    x-request-id: r
    Foo: 1
    foo: 2
""")


def test_what_reaches_the_provider():
    """End-to-end headers go on in their order and spelling; ours come first."""
    own = [(b"Authorization", b"Bearer sk"), (b"foo", b"own")]
    assert to_provider(REQUEST, own) == lines("""
        Authorization: Bearer sk
        foo: own
        Content-Type: application/json
        Accept: */*
        User-Agent: OpenAI/Python
        OpenAI-Beta: assistants=v2
        X-Stainless-Lang: python
        x-request-id: r
        Accept-Encoding: identity
    """)


def test_an_idempotency_key_is_ours():
    """The client's own key goes on only as what the caller made of it."""
    assert (b"Idempotency-Key", b"hashed") in to_provider(REQUEST, [], idempotency_key=b"hashed")
    assert b"mine" not in [value for _, value in to_provider(REQUEST, [], idempotency_key=b"hashed")]


def test_contents_keep_their_encoding():
    """Where we do not read an answer, the client's own choice of coding goes on."""
    sent = to_provider(REQUEST, [], keep_encoding=True)
    assert [value for name, value in sent if name.lower() == b"accept-encoding"] == [b"gzip, br"]
    assert to_provider([], []) == [(b"Accept-Encoding", b"identity")]


def test_what_reaches_the_client():
    """A provider's edge, account and limits stay with us; other headers pass, repeated ones too."""
    answer = lines("""
        Date: now
        Content-Type: application/json
        Content-Length: 5
        Transfer-Encoding: chunked
        Connection: keep-alive
        connection: x-hop
        X-Hop: 1
        Set-Cookie: a=b
        Server: cloudflare
        Via: 1.1 x
        Alt-Svc: h3
        Strict-Transport-Security: max-age=1
        Access-Control-Allow-Origin: *
        CF-RAY: 1
        NEL: {}
        Report-To: {}
        Content-Security-Policy: x
        x-ratelimit-limit-requests: 5
        X-Meterproxy-Cost: 1
        openai-organization: org-1
        openai-processing-ms: 12
        x-request-id: req_1
        Retry-After: 2
        retry-after-ms: 2000
        Link: a
        Link: b
    """)
    assert to_client(answer, {name.lower(): value for name, value in answer}) == lines("""
        Date: now
        Content-Type: application/json
        openai-processing-ms: 12
        x-request-id: req_1
        Retry-After: 2
        retry-after-ms: 2000
        Link: a
        Link: b
    """)


@pytest.mark.parametrize(
    ("conversation", "tags", "wanted"),
    [
        (None, None, Attribution()),
        (" c-1 ", None, Attribution("c-1")),
        ("é" * 64, None, Attribution("é" * 64)),
        (None, "a=b, c=d", Attribution(None, (("a", "b"), ("c", "d")))),
        (None, "a=b=c,", Attribution(None, (("a", "b=c"),))),
        (None, "", Attribution()),
        (
            None,
            ",".join(f"t{number}=v" for number in range(10)),
            Attribution(None, tuple((f"t{n}", "v") for n in range(10))),
        ),
    ],
)
def test_attribution(conversation, tags, wanted):
    """A conversation and up to ten tags."""
    assert attribution(given(conversation, tags)) == wanted


@pytest.mark.parametrize(
    ("conversation", "tags"),
    [
        ("", None),
        ("c" * 129, None),
        ("é" * 65, None),
        ("a\tb", None),
        ("a\udcff", None),
        (None, "a"),
        (None, "a="),
        (None, "=b"),
        (None, "a=b, a=c"),
        (None, "a=b c\x7f"),
        (None, "a=" + "b" * 129),
        (None, ",".join(f"t{number}=v" for number in range(11))),
    ],
)
def test_attribution_that_cannot_be_read_is_malformed(conversation, tags):
    """Anything else is a 400 that names the header."""
    with pytest.raises(ApiError) as refused:
        attribution(given(conversation, tags))
    assert refused.value.status == 400
    assert refused.value.param in {"X-Meterproxy-Conversation", "X-Meterproxy-Tags"}


def given(conversation, tags):
    headers = {"X-Meterproxy-Conversation": conversation, "X-Meterproxy-Tags": tags}
    return {name: value for name, value in headers.items() if value is not None}
