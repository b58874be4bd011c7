"""Request facts: what a body says about its size, and what a tokenizer would count of it."""

import base64
from typing import Any

import orjson
import pytest

from meterproxy.core.bound import RequestFacts
from meterproxy.errors import ApiError
from meterproxy.proxy.body import scan
from meterproxy.proxy.request_facts import (
    PROMPTS_MAXIMUM,
    SEPARATORS_MAXIMUM,
    TEXT_SEPARATORS_MAXIMUM,
    members_read,
    read_facts,
)
from meterproxy.proxy.request_texts import request_texts
from tests.fuzz.body import finished

PICTURE = "data:image/png;base64," + "A" * 40_000


def facts_of(operation: str, body: dict[str, Any] | bytes, model: str = "gpt-4o") -> tuple[RequestFacts, int]:
    raw = body if isinstance(body, bytes) else orjson.dumps({"model": model, **body})
    return read_facts(operation, scan(raw, members_read(operation)), model), len(raw)


def chat(*parts: dict[str, Any] | str, **members: Any) -> tuple[RequestFacts, int]:
    content: Any = parts[0] if len(parts) == 1 and isinstance(parts[0], str) else list(parts)
    return facts_of("chat", {"messages": [{"role": "user", "content": content}], **members})


@pytest.mark.parametrize(
    "content",
    [
        "plain",
        'a "type": "image_url" in text',
        "\\u0041 \x07 é 中 \U0001f600",
        "ends in _url",
    ],
)
def test_text_is_its_bytes(content: str) -> None:
    """Whatever a text looks like, its bytes are its bound."""
    facts, size = chat(content)
    assert (facts.text_bytes, facts.outside, facts.picture_details) == (size, False, ())


def test_text_parts_and_tools_are_text() -> None:
    """Parts of text and called tools are no other contents."""
    facts, size = facts_of(
        "chat",
        {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": "hi"}]},
                {
                    "role": "assistant",
                    "content": None,
                    "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
            ]
        },
    )
    assert (facts.text_bytes, facts.outside) == (size, False)


def test_pictures_are_not_text() -> None:
    """A picture counts by its detail, not by its base64."""
    facts, size = chat(
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": PICTURE}},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
    )
    assert facts.picture_details == ("high", "low")
    assert facts.text_bytes < size - 40_000
    assert not facts.outside


def test_audio_is_not_text() -> None:
    """Audio counts by its length in time."""
    data = base64.b64encode(b"\xff" * 3000).decode()
    facts, size = chat({"type": "input_audio", "input_audio": {"data": data, "format": "mp3"}})
    assert facts.audio_tokens == 96
    assert facts.text_bytes < size - 4000


@pytest.mark.parametrize(
    "part",
    [
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "video_url", "video_url": {"url": "https://example.com/a.mp4"}},
        {"type": "something_new", "id": 1},
        {"type": "image_url", "image_url": "not an object"},
        {"type": 5},
        {"type": ["text"]},
        {"type": {"text": 1}},
    ],
)
def test_what_is_not_in_the_body_is_from_outside(part: dict[str, Any]) -> None:
    """Contents that are only named, or unknown, count as the whole context."""
    facts, _ = chat(part)
    assert facts.outside


def test_escapes_do_not_hide_contents() -> None:
    """A type written in escapes is still that type."""
    body = (
        b'{"model":"gpt-4o","messages":[{"role":"user","content":[{"\\u0074ype":"\\u0066ile",'
        b'"\\u0066ile":{"file_id":"f"}}]}]}'
    )
    assert facts_of("chat", body)[0].outside


def test_numbers() -> None:
    """Maxima, choices, tier, modalities and predictions are read."""
    facts, _ = chat("x", max_tokens=5, max_completion_tokens=7, n=3, service_tier="flex", modalities=["text", "audio"])
    assert (facts.own_maximum, facts.choices, facts.service_tier, facts.audio_output) == (7, 3, "flex", True)
    assert chat("x", max_tokens=None)[0].own_maximum is None
    assert chat("x", web_search_options={})[0].web_search
    assert chat("x", prediction={"type": "content", "content": "abc"})[0].prediction_bytes > 3


@pytest.mark.parametrize(
    "members", [{"n": -1}, {"n": 1000}, {"max_tokens": 2.5}, {"max_tokens": "5"}, {"service_tier": 5}]
)
def test_numbers_out_of_range(members: dict[str, Any]) -> None:
    """What is no number, or too large, is refused."""
    with pytest.raises(ApiError):
        chat("x", **members)


def listed(item: bytes, count: int) -> bytes:
    return b"[" + b",".join([item] * count) + b"]"


@pytest.mark.parametrize("item", [b"[]", b'"a"', b"[1,2]", b"{}", b'"a",1'])
@pytest.mark.parametrize(("operation", "name"), [("embedding", "input"), ("completion", "prompt")])
def test_too_many_prompts(operation: str, name: str, item: bytes) -> None:
    """More inputs than a provider takes are refused, and none of them is built."""
    with pytest.raises(ApiError) as refused:
        facts_of(operation, b'{"model":"m","%b":%b}' % (name.encode(), listed(item, PROMPTS_MAXIMUM + 1)))
    assert (refused.value.status, refused.value.param) == (400, name)


@pytest.mark.parametrize(
    ("raw", "prompts", "texts"),
    [
        (listed(b"[1,2]", PROMPTS_MAXIMUM), PROMPTS_MAXIMUM, ([], 2 * PROMPTS_MAXIMUM)),
        (listed(b"77", 300_000), 1, ([], 300_000)),
        (listed(b'"a, [b], \\"c\\""', 3), 3, (['a, [b], "c"'] * 3, 0)),
        (b"[ ]", 1, ([], 0)),
        (b'{"a":[1,2]}', 1, (['{"a":[1,2]}'], 0)),
    ],
)
def test_lists_of_prompts(raw: bytes, prompts: int, texts: tuple[list[str], int]) -> None:
    """Ids, however many, are one prompt a list, and what texts look like does not matter."""
    body = b'{"model":"m","input":%b}' % raw
    assert facts_of("embedding", body)[0].prompts == prompts
    assert finished(request_texts("embedding", scan(body, members_read("embedding")))) == texts


PART = b'{"type":"image_url","image_url":{"url":"x"}}'


@pytest.mark.parametrize(
    "messages",
    [
        listed(b"{}", TEXT_SEPARATORS_MAXIMUM + 2),
        listed(b'{"role":"user","content":"a"}', TEXT_SEPARATORS_MAXIMUM // 2 + 1),
        b'[{"role":"user","content":%b}]' % listed(PART, SEPARATORS_MAXIMUM),
        b'[{"content":[{"type":%b}]}]' % listed(b"1", SEPARATORS_MAXIMUM + 2),
    ],
)
def test_too_many_messages(messages: bytes) -> None:
    """Messages and parts beyond all use are refused before any is built."""
    with pytest.raises(ApiError) as refused:
        facts_of("chat", b'{"model":"m","messages":%b}' % messages)
    assert (refused.value.status, refused.value.param) == (400, "messages")


def test_long_messages() -> None:
    """A long text with any number of separators in it is a text."""
    facts, size = chat('{"a": [1, 2]}, ' * SEPARATORS_MAXIMUM)
    assert facts.text_bytes == size
    assert chat(*[{"type": "text", "text": "a, b"}] * 10_000)[0].outside is False


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("text", 1), (["a", "b", "c"], 3), ([1, 2, 3], 1), ([[1, 2], [3]], 2), ([], 1), (None, 1)],
)
def test_prompts(prompt: Any, prompts: int) -> None:
    """Each of several prompts is answered; a list of token ids is one."""
    assert facts_of("completion", {"prompt": prompt})[0].prompts == prompts
    assert facts_of("embedding", {"input": prompt})[0].prompts == prompts


def test_choices_of_completions() -> None:
    """The dearer of `n` and `best_of` counts."""
    assert facts_of("completion", {"prompt": "x", "n": 2, "best_of": 5})[0].choices == 5


def texts_of(operation: str, body: dict[str, Any]) -> tuple[list[str], int]:
    return finished(request_texts(operation, scan(orjson.dumps({"model": "m", **body}), members_read(operation))))


def test_texts_of_chat() -> None:
    """Every text that the model reads is counted once."""
    texts, ids = texts_of(
        "chat",
        {
            "messages": [
                {"role": "system", "content": "one"},
                {
                    "role": "user",
                    "name": "Ann",
                    "content": [{"type": "text", "text": "two"}, {"type": "text", "text": ""}],
                },
                {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"a":1}'}}]},
            ],
            "tools": [{"type": "function"}],
        },
    )
    assert texts == ["one", "two", "Ann", "f", '{"a":1}', '[{"type":"function"}]']
    assert ids == 0


def test_texts_that_cannot_be_read_are_counted_whole() -> None:
    """Messages of an unknown form are counted as they stand."""
    assert texts_of("chat", {"messages": "hello"})[0] == ['"hello"']


def test_lone_surrogates() -> None:
    """Half a character does not hide the other texts."""
    body = b'{"model":"m","messages":[{"role":"user","content":"a \\ud800 b"}]}'
    [text] = finished(request_texts("chat", scan(body, members_read("chat"))))[0]
    assert text.startswith("a ")


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [("a", (["a"], 0)), (["a", "b"], (["a", "b"], 0)), ([1, 2, 3], ([], 3)), ([[1, 2], [3]], ([], 3))],
)
def test_texts_of_prompts(prompt: Any, expected: tuple[list[str], int]) -> None:
    """Token ids count themselves."""
    assert texts_of("completion", {"prompt": prompt}) == expected
    assert texts_of("embedding", {"input": prompt}) == expected
