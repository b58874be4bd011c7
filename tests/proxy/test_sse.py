"""Event streams: whole events, their terminal event, and what is taken out where we asked for usage."""

import itertools
import json
import re
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from meterproxy.proxy import sse
from meterproxy.proxy.sse import HELD_MAXIMUM, DoneFinder, EventSplitter, StreamEditor, data_of, split_events

CHUNK = {"id": "c1", "object": "chat.completion.chunk", "model": "m", "choices": [{"index": 0, "delta": {}}]}
USAGE = {"prompt_tokens": 1, "completion_tokens": 2}


def compact(document):
    return json.dumps(document, separators=(",", ":")).encode()


def edited(stream, cuts=()):
    editor = StreamEditor()
    pieces = [editor.feed(piece) for piece in pieces_of(stream, cuts)]
    return b"".join(pieces) + editor.finish()


def pieces_of(stream, cuts):
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(stream)}), len(stream)]
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


# What the provider sends because we asked | what it would have sent without (None: the same)
EVENTS = [
    (b'data: {"choices":[{"a":1}],"usage":null}\n\n', b'data: {"choices":[{"a":1}]}\n\n'),
    (b'data: {"choices": [], "x": 1, "usage": null}\n\n', b'data: {"choices": [], "x": 1}\n\n'),
    (b'data: {"usage":null,"choices":[]}\r\n\r\n', b'data: {"choices":[]}\r\n\r\n'),
    (b'data: {"usage" : null , "choices":[]}\r\r', b'data: {"choices":[]}\r\r'),
    (b'data:{"choices":[1],"usage":null,"obfuscation":"ab"}\n\n', b'data:{"choices":[1],"obfuscation":"ab"}\n\n'),
    (
        b'data: {"choices":[1],"usage":null,"obfuscation":"a\\"}"}\n\n',
        b'data: {"choices":[1],"obfuscation":"a\\"}"}\n\n',
    ),
    (b'event: x\nid: 7\ndata: {"choices":[1],"usage":null}\n\n', b'event: x\nid: 7\ndata: {"choices":[1]}\n\n'),
    (b'data: {"choices":[{"usage":null}],"usage":null}\n\n', b'data: {"choices":[{"usage":null}]}\n\n'),
    (b'data: {"choices":[{"a":{"usage":null}}]}\n\n', None),
    (b'data: {"choices":[],"usage":{"prompt_tokens":1}}\n\n', b""),
    (b'data: {"choices":[ ],"usage":{"prompt_tokens":1},"model":"m"}\r\n\r\n', b""),
    (b'data: {"choices":[],\ndata: "usage":{"prompt_tokens":1}}\n\n', b""),
    (b'data: {"choices":[],"usage":{"prompt_tokens":1}}\r\r', b""),
    (b'data: {"choices":[{"a":1}],"usage":{"prompt_tokens":1}}\n\n', None),
    (b'data: {"usage":{"prompt_tokens":1}}\n\n', None),
    (b'data: {"choices":[],"prompt_filter_results":[{"usage":1}]}\n\n', None),
    (b'data: {"choices":[],"usage":"object"}\n\n', None),
    (b'data: {"choices":[{"delta":{"content":"\\"usage\\":null"}}]}\n\n', None),
    ('data: {"choices":[{"delta":{"content":"a\u2028b\u0085 é"}}]}\n\n'.encode(), None),
    (b': a comment, "usage":null}\n\n', None),
    (b'data: "usage" garbage }\n\n', None),
    (b"\r\n\r", None),
    (b"\n\n", None),
    (b"data: [DONE]\n\n", None),
    (b"data: [DONE]\r\n\r\n", None),
]


@pytest.mark.parametrize(("sent", "wanted"), EVENTS)
def test_edits_each_event_as_if_usage_had_not_been_asked_for(sent, wanted):
    """Only the usage that our option brought is taken out, in one piece and byte by byte."""
    wanted = sent if wanted is None else wanted
    assert edited(sent) == wanted
    assert edited(sent, range(len(sent))) == wanted


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r", b"\n\r\n", b"\r\n\n", b"\r\r\n", b"\r\n\r"])
def test_garbage_is_edited_alike_in_any_pieces(end):
    """What only looks like JSON is treated the same wherever pieces part around it."""
    event = b'data: {"a}b":1],"usage":null}' + end
    stream = event + b"\n" + event + b"\r\n" + event + b"data: 1\n\n"
    assert {edited(stream, [cut]) for cut in range(len(stream))} == {edited(stream)}
    assert edited(stream, range(len(stream))) == edited(stream)


def test_edits_an_event_without_its_empty_line():
    """A stream that ends without a final newline is edited all the same."""
    assert edited(b'data: {"choices":[1],"usage":null}') == b'data: {"choices":[1]}'
    assert edited(b'data: {"choices":[],"usage":{"a":1}}\n') == b""


def test_a_byte_order_mark_stays():
    """The first event may begin with a byte order mark."""
    assert edited(b'\xef\xbb\xbfdata: {"a":1,"usage":null}\n\n') == b'\xef\xbb\xbfdata: {"a":1}\n\n'


def test_the_line_feed_after_a_removed_event_goes_with_it():
    """`\\r` and `\\n` of one line end may come in two chunks."""
    stream = b'data: 1\r\rdata: {"choices":[],"usage":{"a":1}}\r\n\r\ndata: 2\r\n\r\n'
    for cut in range(len(stream)):
        assert edited(stream, [cut]) == b"data: 1\r\rdata: 2\r\n\r\n"


def test_a_too_long_event_passes_unedited_and_the_next_is_edited():
    """More than 1 MiB of one event is not held back."""
    editor = StreamEditor()
    start = b'data: {"choices":[],"x":"' + b"x" * HELD_MAXIMUM
    assert editor.feed(start) == start
    assert editor.feed(b'","usage":{"a":1}}\n') == b'","usage":{"a":1}}\n'
    assert editor.feed(b'\ndata: {"a":1,"usage":null}\n\n') == b'\ndata: {"a":1}\n\n'


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(EVENTS), max_size=6), st.lists(st.integers(0, 400), max_size=12))
def test_events_over_the_limit_pass_and_the_others_are_edited(monkeypatch, events, cuts):
    """Whatever is too long to be held passes as it came, in any pieces; nothing is lost, doubled or moved."""
    joints = pairwise(events)
    assume(
        not any(sent.endswith(b"\r") and behind.startswith(b"\n") for (sent, _), (behind, _) in joints)
    )  # one line end
    monkeypatch.setattr(sse, "HELD_MAXIMUM", 50)
    form = b""
    for sent, wanted in events:
        as_edited = re.escape(sent if wanted is None else wanted)
        form += b"(?:%b|%b)" % (re.escape(sent), as_edited) if len(sent) > 50 else as_edited
    assert re.fullmatch(form, edited(b"".join(sent for sent, _ in events), cuts))


def test_ordinary_events_come_out_at_once():
    """Whole events are not held back."""
    editor = StreamEditor()
    assert editor.feed(b"data: 1\n\ndata: 2") == b"data: 1\n\n"
    assert editor.feed(b"\n\n") == b"data: 2\n\n"


streams = st.lists(
    st.sampled_from([sent for sent, _ in EVENTS] + [b"data: x\r", b"\n", b"\r", b"data", b": c\n", b"\xef\xbb\xbf"]),
    max_size=8,
).map(b"".join)
cuts = st.lists(st.integers(0, 400), max_size=12)


@settings(max_examples=400)
@given(streams, cuts)
def test_chunks_do_not_matter_to_the_editor(stream, cuts):
    """However a stream is cut, its edited form is that of the whole."""
    assert edited(stream, cuts) == edited(stream)


@settings(max_examples=150)
@given(streams)
def test_single_bytes_do_not_matter_to_the_editor(stream):
    """One byte at a time gives the edited form of the whole."""
    assert edited(stream, range(len(stream))) == edited(stream)


@settings(max_examples=200)
@given(streams, cuts)
def test_the_splitter_keeps_every_byte_and_cuts_at_ends(stream, cuts):
    """What comes out of the splitter is the stream, event by event."""
    splitter = EventSplitter()
    blocks = [splitter.feed(piece) for piece in pieces_of(stream, cuts)]
    assert all(block.endswith((b"\n", b"\r")) for block in blocks if block)
    assert b"".join(blocks) + splitter.finish() == stream
    assert b"".join(split_events(stream)) == stream


DATA = [
    (b"data: a\n\n", b"a"),
    (b"data:a\r\n\r\n", b"a"),
    (b"data:  a\r\r", b" a"),
    (b"data: a\ndata: b\r\ndata:\rdata\n\n", b"a\nb\n\n"),
    (b": comment\nevent: x\ndata: a\nid: 1\n\n", b"a"),
    (b"database: a\n\n", b""),
    (b"\xef\xbb\xbfdata: a\n\n", b"a"),
    (": \u2028data: b\ndata: a\u2028b\n\n".encode(), "a\u2028b".encode()),
]


@pytest.mark.parametrize(("event", "data"), DATA)
def test_data_of_an_event(event, data):
    """Data lines are joined; other fields, comments and names that only begin alike are not data."""
    assert data_of(event) == data


DONE = [
    (b"data: 1\n\ndata: [DONE]\n\n", 9),
    (b"data: 1\r\rdata:[DONE]\r\r", 9),
    (b"data: [DONE]", 0),
    (b": x\r\ndata: [DONE] trailing\n", 5),
    (b'data: {"a":"data: [DONE]"}\n\n', None),
    (b"xdata: [DONE]\n\n", None),
    (b"data: data: [DONE]\n\n", None),
    (b"data: [DONE\n\n]", None),
]


@pytest.mark.parametrize(("stream", "start"), DONE)
def test_finds_the_terminal_event(stream, start):
    """The terminal event is found at its own line, whatever else contains its text."""
    assert DoneFinder().feed(stream) == start


@pytest.mark.parametrize(("stream", "start"), DONE)
def test_finds_the_terminal_event_in_any_pieces(stream, start):
    """Nothing from the terminal event's last byte on goes out before the ending; nothing is found where nothing is."""
    last = None if start is None else stream.index(b"[DONE]") + 5
    for width in range(1, len(stream) + 1):
        finder = DoneFinder()
        found = None
        for offset in range(0, len(stream), width):
            cut = finder.feed(stream[offset : offset + width])
            if cut is not None:
                assert found is None
                found = offset + cut
        assert (found is None) == (start is None)
        if start is not None:
            assert start <= found <= last


def test_the_terminal_event_is_found_once():
    """After the terminal event nothing is terminal any more."""
    finder = DoneFinder()
    assert finder.feed(b"data: [DONE]\n\n") == 0
    assert finder.feed(b"data: [DONE]\n\n") is None


def test_an_edited_openai_stream_is_the_one_without_the_option():
    """A whole stream as OpenAI sends it with the option becomes the one without."""
    texts = ["", "Hello", ' w"or}ld', "\n\n", "é"]
    plain = [{**CHUNK, "choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    sent = b"".join(b"data: %b\n\n" % compact({**chunk, "usage": None}) for chunk in plain)
    sent += b"data: %b\n\n" % compact({**CHUNK, "choices": [], "usage": USAGE}) + b"data: [DONE]\n\n"
    assert edited(sent) == b"".join(b"data: %b\n\n" % compact(chunk) for chunk in plain) + b"data: [DONE]\n\n"


@pytest.mark.parametrize("newline", [b"\n", b"\r\n", b"\r"])
@given(cuts=st.lists(st.integers(1, 200), max_size=12))
def test_too_long_events_are_dropped(newline, cuts):
    """An unfinished event above the maximum is let go of, and the events behind it come out as ever."""
    long, last = b"data: " + b"x" * 100 + newline * 2, b"data: b" + newline * 2
    stream = b"data: a" + newline * 2 + long + last
    splitter = EventSplitter(50)
    out, most_held = b"", 0
    for piece in [*pieces_of(stream, cuts), b""]:
        out += splitter.feed(piece)
        most_held = max(most_held, splitter.held_bytes)
    rest = splitter.finish()
    assert most_held <= 50
    assert len(out) + len(rest) + splitter.dropped_bytes == len(stream)
    assert [data_of(event) for event in split_events(out + rest)][-1] == b"b"
    assert splitter.dropped_bytes in range(len(long) - 1, len(long) + 2) or not splitter.dropped_bytes
