"""The meter: what answers and streams say they used, whatever pieces they come in."""

import itertools
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproxy.core.usage import Usage
from meterproxy.proxy import meter
from meterproxy.proxy.meter import NO_CEILING, RAW_USAGE_MAXIMUM, Reading, StreamMeter, read_answer
from meterproxy.proxy.sse import StreamEditor
from meterproxy.proxy.texts import TextPool, answer_texts, stream_texts
from meterproxy.proxy.usage_shapes import Ceiling

HEAD = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "gpt-4o-2024-08-06"}
REPORTED = {"prompt_tokens": 9, "completion_tokens": 4, "total_tokens": 13}
USAGE = Usage(input=9, output=4, requests=1)


def sse(document):
    return b"data: %b\n\n" % json.dumps(document, separators=(",", ":")).encode()


def chunk(delta, *, index=0, finish=None, **members):
    return sse({**HEAD, "choices": [{"index": index, "delta": delta, "finish_reason": finish}], **members})


DONE = b"data: [DONE]\n\n"
WORDS = ["Hello", " wor", "ld", " \u00e9\U0001f600", '"quoted"', "\n\n", "usage", "", " end"]


def chat_stream(**members):
    return b"".join(
        [
            chunk({"role": "assistant", "content": ""}, **members),
            *(chunk({"content": word}, **members) for word in WORDS),
            chunk({}, finish="stop", **members),
        ]
    )


def usage_event(reported=REPORTED, **members):
    return sse({**HEAD, "choices": [], "usage": reported, **members})


def read(stream, cuts=(), *, editing=False, ceiling=NO_CEILING, operation="chat", pool=None):
    meter = StreamMeter(operation, pool or TextPool(), editing=editing)
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(stream)}), len(stream)]
    forwarded = b""
    for start, end in itertools.pairwise(edges):
        before = meter.terminal
        forwarded += meter.feed(stream[start:end])
        if meter.terminal and not before:
            forwarded += meter.terminal
    forwarded += meter.finish()
    kept = meter.kept()
    meter.close()
    return forwarded, meter.reading(ceiling), stream_texts(kept.events), meter


def test_reads_a_plain_answer():
    """Usage, model, tier, id and tools of a plain answer."""
    call = {"id": "c", "type": "function", "function": {"name": "look", "arguments": '{"a":1}'}}
    answer = {
        "id": "chatcmpl-1",
        "model": "m-2",
        "service_tier": "flex",
        "choices": [{"index": 0, "message": {"content": "hi", "tool_calls": [call, call]}, "finish_reason": "stop"}],
        "usage": REPORTED,
    }
    body = json.dumps(answer, indent=1).encode()
    assert read_answer("chat", body) == Reading(USAGE, None, "m-2", "flex", "chatcmpl-1", ("look",))
    assert answer_texts(body) == ["hi", "look", '{"a":1}', "look", '{"a":1}']


@pytest.mark.parametrize(
    ("body", "reading"),
    [
        (b"", Reading()),
        (b"not JSON", Reading()),
        (b"[1]", Reading()),
        (b'{"usage":null,"model":"m"}', Reading(served_model="m")),
        (b'{"model":"m"}', Reading(served_model="m")),
        (b'{"model":7,"id":[],"service_tier":null}', Reading()),
        (b'{"model":"a\\u0000b"}', Reading(served_model="ab")),
        (b'{"model":"a\\ud800"}', Reading(served_model="a\u0800")),
        (b'{"error":{"message":"no"}}', Reading(failed=True)),
        (b'{"error":null,"usage":{"prompt_tokens":9,"completion_tokens":4}}', Reading(USAGE)),
        (b'{"x":"\\ud83d","usage":{"prompt_tokens":9,"completion_tokens":4}}', Reading(USAGE)),
        (b'{"x":' + b"[" * 100_000, Reading()),
    ],
)
def test_an_odd_answer_never_raises(body, reading):
    """Broken or odd JSON leaves usage missing and the rest as far as it can be read."""
    assert read_answer("chat", body) == reading


@pytest.mark.parametrize(
    ("usage", "kept"),
    [
        (b'{"prompt_tokens":-1}', True),
        (b'{"prompt_tokens":18446744073709551616,"completion_tokens":1}', True),
        (b'{"prompt_tokens":"\\u0000"}', False),
        (b'{"prompt_tokens":1e400000}', False),
        (b'{"prompt_tokens":-1,"x":"%b"}' % (b"x" * RAW_USAGE_MAXIMUM), False),
        (b"7", True),
        (b'"x"', True),
    ],
)
def test_impossible_usage_is_kept_raw_where_it_can_be_stored(usage, kept):
    """Impossible usage is flagged, and the provider's own object goes along if the database can hold it."""
    reading = read_answer("chat", b'{"usage":%b}' % usage)
    assert reading.usage is None
    assert reading.flags == ("impossible_usage",)
    assert reading.raw_usage == (usage if kept else None)


def test_tool_names_are_bookable_distinct_and_few():
    """At most 32 distinct names, without NUL."""
    calls = [{"function": {"name": f"t\0{number % 40}"}} for number in range(80)]
    reading = read_answer("chat", json.dumps({"choices": [{"message": {"tool_calls": calls}}]}).encode())
    assert reading.tools == tuple(f"t{number}" for number in range(32))


STREAMS = {
    "with usage": (chat_stream() + usage_event() + DONE, USAGE),
    "asked for": (chat_stream(usage=None) + usage_event() + DONE, USAGE),
    "no usage": (chat_stream() + DONE, None),
    "no terminal event": (chat_stream() + usage_event(), USAGE),
    "unfinished": (chat_stream() + usage_event()[:-2], USAGE),
    "broken": (chat_stream()[:-30], None),
    "beside choices": (chat_stream() + chunk({}, finish="stop", usage=REPORTED) + DONE, USAGE),
    "last wins": (
        usage_event({"prompt_tokens": 1, "completion_tokens": 1}) + chat_stream() + usage_event() + DONE,
        USAGE,
    ),
    "null after": (usage_event() + chat_stream(usage=None) + DONE, USAGE),
    "nested": (chat_stream() + sse({**HEAD, "x_groq": {"usage": {"prompt_tokens": 99}}}) + usage_event() + DONE, USAGE),
    "only nested": (chat_stream() + sse({**HEAD, "x_groq": {"usage": {"prompt_tokens": 99}}}) + DONE, None),
    "in text": (chunk({"content": '"usage":{"prompt_tokens":1}'}) + DONE, None),
    "obfuscated": (
        b"".join(chunk({"content": word}, usage=None, obfuscation="x" * len(word)) for word in WORDS)
        + usage_event()
        + DONE,
        USAGE,
    ),
    "crlf": ((chat_stream() + usage_event() + DONE).replace(b"\n", b"\r\n"), USAGE),
    "cr": ((chat_stream() + usage_event() + DONE).replace(b"\n", b"\r"), USAGE),
    "comments": (b": hi\n\n" + chat_stream().replace(b"\n\ndata", b"\n\n: ping\n\ndata") + usage_event() + DONE, USAGE),
    "azure": (
        sse({"id": "", "model": "", "choices": [], "prompt_filter_results": [{}]})
        + chat_stream()
        + usage_event()
        + DONE,
        USAGE,
    ),
    "two choices": (
        b"".join(chunk({"content": word}, index=index) for word in WORDS for index in (0, 1)) + usage_event() + DONE,
        USAGE,
    ),
    "garbage": (b"data: {nonsense\n\ndata: \xff\xfe\n\n" + chat_stream() + usage_event() + DONE, USAGE),
}


@pytest.mark.parametrize("name", STREAMS)
def test_reads_streams_in_any_pieces(name):
    """Usage, model and text of a stream do not depend on its pieces, and unedited bytes stay as they are."""
    stream, usage = STREAMS[name]
    whole = read(stream)
    assert whole[0] == stream
    assert whole[1].usage == usage
    if name != "in text":
        assert whole[1].served_model == "gpt-4o-2024-08-06"
    for cuts in (range(len(stream)), range(0, len(stream), 7), range(0, len(stream), 300), event_ends(stream)):
        forwarded, reading, texts, meter = read(stream, cuts)
        assert (forwarded, reading, texts) == whole[:3]
        assert meter.events == whole[3].events


def event_ends(stream):
    return [place + 2 for place in range(len(stream)) if stream.startswith((b"\n\n", b"\r\r"), place)]


@pytest.mark.parametrize("name", STREAMS)
def test_edits_as_the_editor_does(name):
    """A meter that edits forwards what the editor makes of the whole, whatever it recognises on the way."""
    stream, _ = STREAMS[name]
    editor = StreamEditor()
    wanted = editor.feed(stream) + editor.finish()
    for cuts in ((), range(len(stream)), range(0, len(stream), 7), range(0, len(stream), 500), event_ends(stream)):
        assert read(stream, cuts, editing=True)[0] == wanted


@settings(max_examples=200)
@given(
    st.lists(
        st.sampled_from(
            [
                chunk({"content": "a"}, usage=None),
                chunk({"content": 'b"c\\'}, usage=None),
                chunk({"content": "usage"}, usage=None),
                chunk({"content": "d"}, index=1, usage=None),
                chunk({"content": "e"}, usage=None, obfuscation="zz"),
                chunk({"content": "f"}, usage=None).replace(b"\n", b"\r\n"),
                chunk({"content": "g\u2028"}, usage=REPORTED),
                b'data: {"choices":[{"delta":{"content":"h\n\ndata: [DONE]\n\n',
                b'data: {"id":"chatcmpl-1","object":"x","choices":[{"delta":{"content":"i\r\r"}}],"usage":null}\n\n',
                usage_event(),
                DONE,
                b"\n",
                b"\r",
            ]
        ),
        max_size=12,
    ).map(b"".join),
    st.lists(st.integers(0, 1500), max_size=8),
)
def test_what_is_recognised_does_not_change_the_result(stream, cuts):
    """Templates only save time: any mixture in any pieces forwards the same bytes and reads the same."""
    editor = StreamEditor()
    wanted = editor.feed(stream) + editor.finish()
    whole = read(stream, editing=True)
    parts = read(stream, cuts, editing=True)
    assert whole[0] == parts[0] == wanted
    assert whole[1] == parts[1]
    assert whole[2] == parts[2]


def test_the_terminal_event_waits_for_the_ending():
    """What `feed` returns never has the terminal event; `terminal` has it, and what came before is read by then."""
    meter = StreamMeter("chat", TextPool(), editing=True)
    assert meter.feed(chat_stream(usage=None)) == chat_stream()
    assert meter.finished
    assert not meter.terminal
    assert meter.feed(usage_event() + DONE + b": end\n\n") == b""
    assert meter.terminal == DONE + b": end\n\n"
    assert meter.reading().usage == USAGE
    meter.close()


def test_an_unfinished_last_event_is_read_with_the_terminal_one():
    """`[DONE]` ends the stream even before its own line is finished."""
    meter = StreamMeter("chat", TextPool())
    assert meter.feed(b"data: [DO") == b"data: [DO"
    assert meter.feed(b"NE]") == b""
    assert meter.terminal == b"NE]"


def test_texts_are_joined_by_choice_and_kind():
    """Pieces of one text are joined, those of several choices kept apart."""
    stream = b"".join(chunk({"content": word}, index=index) for word in ("a", "b", "c") for index in (0, 1))
    stream += chunk({"tool_calls": [{"index": 0, "function": {"name": "look", "arguments": ""}}]})
    stream += chunk({"tool_calls": [{"index": 0, "function": {"arguments": '{"a":'}}]})
    stream += chunk({"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}]})
    stream += chunk({"reasoning_content": "why", "reasoning": "why"}) + sse({"error": {"message": "not output"}})
    _, reading, texts, meter = read(stream)
    assert texts == ["abc", "abc", "look", '{"a":1}', "why"]
    assert reading.tools == ("look",)
    assert meter.failed
    assert reading.failed


def test_completions_have_texts_of_their_own():
    """Legacy completions carry `text`."""
    stream = b"".join(
        sse({"id": "c", "model": "m", "choices": [{"index": 0, "text": text}]}) for text in ("a", "b", "c")
    )
    assert read(stream, operation="completion")[2] == ["abc"]
    assert answer_texts(b'{"choices":[{"text":"a"},{"text":"b"}]}') == ["a", "b"]


def test_a_ceiling_is_kept():
    """Usage above what the request could come to is impossible."""
    reading = read(chat_stream() + usage_event(), ceiling=Ceiling(output_tokens=3))[1]
    assert (reading.usage, reading.flags) == (None, ("impossible_usage",))
    assert json.loads(reading.raw_usage) == REPORTED


def test_long_streams_keep_their_text_in_little_memory():
    """What events have in common is kept once, so ten thousand of them take little more than their text."""
    words = [f" word{number}" for number in range(10_000)]
    pool = TextPool()
    meter = StreamMeter("chat", pool)
    for word in words:
        meter.feed(chunk({"content": word}, obfuscation="xyz"))
    assert pool.taken_bytes < 2 * len("".join(words))
    kept = meter.kept()
    assert stream_texts(kept.events) == ["".join(words)]
    assert (kept.dropped_bytes, meter.events) == (0, 10_000)
    meter.close()
    assert pool.taken_bytes == 0


def test_a_full_pool_counts_what_it_cannot_keep():
    """Text that finds no room is counted in bytes."""
    pool = TextPool(1000)
    meter = StreamMeter("chat", pool)
    for _ in range(5000):
        meter.feed(chunk({"content": "word"}))
    kept = meter.kept()
    assert pool.taken_bytes <= 1000
    assert kept.dropped_bytes > 10_000
    assert "wordword" in stream_texts(kept.events)[0]


def test_events_of_changing_shape_are_learnt_anew():
    """A creation time that changes within a stream costs a closer look, nothing else."""
    events = [
        sse({"id": "c", "created": number // 3, "choices": [{"index": 0, "delta": {"content": "w"}}]})
        for number in range(60)
    ]
    assert read(b"".join(events), itertools.accumulate(map(len, events)))[2] == ["w" * 60]


def test_an_endless_event_is_not_kept(monkeypatch):
    """Of an event that is too long nothing is kept, its bytes count as unread, and reading goes on behind it."""
    monkeypatch.setattr(meter, "EVENT_MAXIMUM", 1000)
    stream = StreamMeter("chat", TextPool())
    piece = b"x" * 600
    assert b"".join(map(stream.feed, [b"data: ", piece, piece, piece])) == b"data: " + 3 * piece
    assert stream._splitter.held_bytes <= 1000
    tail = b'\n\ndata: {"model":"m","usage":{"prompt_tokens":1,"completion_tokens":2}}\n\n'
    assert stream.feed(tail) == tail
    assert stream.reading().usage is not None
    assert stream.kept().dropped_bytes == 1808


@given(st.data(), st.sampled_from([b"\n", b"\r\n", b"\r"]))
def test_ids_are_told_before_they_go_on(data: st.DataObject, newline: bytes) -> None:
    """Held by whole events, a stream goes on unchanged, and no piece has an id that was not told before."""
    events = [
        b'data: {"id":"chatcmpl-1","model":"gpt-4o","choices":[{"index":0,"delta":{"content":""}}]}',
        b'data: {"id":"chatcmpl-1","model":"gpt-4o","choices":[{"index":0,"delta":{"audio":{"id":"audio_1"}}}]}',
        *(
            b'data: {"id":"chatcmpl-1","model":"gpt-4o","choices":[{"index":0,"delta":{"content":"w%d"}}]}' % number
            for number in range(4)
        ),
        b"data: [DONE]",
    ]
    whole = b"".join(event + newline * 2 for event in events)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=20)))
    meter = StreamMeter("chat", TextPool(), holding=True)
    forwarded, told = b"", b""
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        if start == end:
            continue
        forwarded += meter.feed(whole[start:end])
        told += b"".join(found.id.encode() for found in meter.new_ids())
        assert (b"chatcmpl-1" in forwarded) <= (b"chatcmpl-1" in told)
        assert (b"audio_1" in forwarded) <= (b"audio_1" in told)
        if meter.done:
            forwarded += meter.terminal
            meter.terminal = b""
    assert forwarded + meter.finish() == whole
    assert told == b"audio_1chatcmpl-1" or told == b"chatcmpl-1audio_1"


def test_what_is_no_json_is_no_template() -> None:
    """Two events that differ in their texts alone have the same structure only if they are JSON: these are edited apart."""
    head = b'data: {"choices":[{"delta":{"content":"a"},\x02}],ge":null}],"usage":null,"obfuscation":"'
    first, second = head + b'}]x"usage":null}\n\n', head + b'}],"usage":null}\n\n'
    meter = StreamMeter("chat", TextPool(), editing=True)
    editor = StreamEditor()
    for event in (first, second, first):
        assert meter.feed(event) == editor.feed(event)
