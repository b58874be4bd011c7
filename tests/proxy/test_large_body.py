"""Large bodies: read in steps, with the same verdict, the same members and the same texts as in one go."""

import json
from collections.abc import Generator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproxy.errors import ApiError
from meterproxy.proxy import abridged as abridged_module
from meterproxy.proxy import large_body, plain
from meterproxy.proxy.abridged import STEP_BYTES, abridging
from meterproxy.proxy.body import scan
from meterproxy.proxy.large_body import abridged, expanding, scanning
from meterproxy.proxy.mentions import ESCAPED, MARKS, mentions_of
from meterproxy.proxy.outline import counts
from meterproxy.proxy.pieces import walking
from meterproxy.proxy.request_facts import MORE, read_facts
from meterproxy.proxy.request_texts import TEXTS_STEP, request_texts
from meterproxy.proxy.turns import Turns
from tests.fuzz.body import same_in_steps
from tests.proxy.house import built
from tests.proxy.house import chat as house_chat

NONCE = b"0123456789ab"
MIB = 1 << 20
FILLINGS = {
    "text": b"lorem ipsum dolor ",
    "escapes": b"\\n",
    "quotes": b'\\"',
    "backslashes": b"\\\\",
    "code points": b"\\u00e4",
    "pairs": b"\\ud83d\\ude00",
    "characters": "äö€😀".encode(),
}
FLAWS = {"lone": b"\\ud83d", "low": b"x\\ude00", "not UTF-8": b"\xff\x80a", "half": b"\xc3"}
READ = frozenset({"model", "messages", "input", "tools"})


def run(work: "Generator[None, None, Any]") -> tuple[Any, int]:
    """The result of work in steps, and how many steps it took."""
    steps = 0
    while True:
        try:
            next(work)
        except StopIteration as done:
            return done.value, steps
        steps += 1


def chat(filling: bytes) -> bytes:
    return b' {"messages": [{"role":"user","content":"%b"}] , "model":"m","x":[1,2,{}]}' % filling


def refused(work: "Generator[None, None, Any]") -> bool:
    try:
        run(work)
    except ApiError:
        return True
    return False


@pytest.mark.parametrize("name", [*FILLINGS, *FLAWS])
def test_reads_a_large_body_in_small_steps(name: str) -> None:
    """However a text of megabytes is written, no step looks at much more than its share, and little is left of it."""
    filling = FILLINGS.get(name) or FLAWS[name]
    body = chat(filling * (2 * MIB // len(filling)))
    members, steps = run(scanning(body, READ, NONCE))
    assert steps >= len(body) // STEP_BYTES
    assert len(members.document) < 2048
    assert members.spans == scan(body, READ).spans
    assert members.size("messages") > 2 * MIB - 64


@pytest.mark.parametrize("name", FILLINGS)
def test_texts_come_back_whole(name: str) -> None:
    """What a tokenizer counts of a large body is its text to the last letter, in pieces."""
    filling = FILLINGS[name]
    body = chat(filling * (MIB // len(filling)))
    members, _ = run(scanning(body, READ, NONCE))
    (texts, known), _ = run(request_texts("chat", members))
    pieces, steps = run(expanding(members, texts))
    (whole, _), _ = run(request_texts("chat", scan(body, READ)))
    assert ("".join(pieces), known, len(texts)) == ("".join(whole), 0, len(whole))
    assert steps >= MIB // STEP_BYTES


@pytest.mark.parametrize("name", FLAWS)
def test_what_a_reader_refuses_shows_in_what_is_left(name: str) -> None:
    """Bytes that are no text decide the same whether they are looked at in one go or were cut away."""
    filling = b"a" * 5000 + FLAWS[name] + b"b" * 300_000
    body = b'{"model":"m","messages":[{"role":"user","content":[{"type":"file","text":"%b"}]}]}' % filling
    members, _ = run(scanning(body, READ, NONCE))
    assert read_facts("chat", members, "m") == read_facts("chat", scan(body, READ), "m")


@pytest.mark.parametrize(
    "filling",
    [b"\\q", b"\n", b"\\u12g", b"\\uzz"],
)
def test_refuses_in_steps_what_is_no_string(filling: bytes) -> None:
    """What is no JSON is refused wherever in a long text it stands."""
    for before in (0, STEP_BYTES - 40, STEP_BYTES - 34, 2 * STEP_BYTES):
        body = chat(b"a" * before + filling + b"b" * 1000)
        assert refused(scanning(body, READ, NONCE))
        with pytest.raises(ApiError):
            scan(body, READ)


def test_counts_pictures_by_their_whole_length() -> None:
    """A picture that was cut short is as foreign to the text as the whole one."""
    picture = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 700_000, "detail": "low"}}
    sound = {"type": "input_audio", "input_audio": {"data": "UklGR" + "A" * 500_000, "format": "wav"}}
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": [picture, sound]}]}).encode()
    members, _ = run(scanning(body, READ, NONCE))
    assert read_facts("chat", members, "m") == read_facts("chat", scan(body, READ), "m")


def test_mentions_are_found_beside_long_texts() -> None:
    """A file that stands behind megabytes of text is mentioned as in a small body."""
    items = [{"type": "message", "content": "x" * MIB}, {"type": "input_file", "file_id": "file-1"}]
    body = json.dumps({"model": "m", "input": items}).encode()
    members, _ = run(scanning(body, READ, NONCE))
    assert mentions_of(members, ("input",), MARKS) == mentions_of(scan(body, READ), ("input",), MARKS)


def test_changes_are_sent_without_a_copy() -> None:
    """A large body that is changed goes out in the pieces around the change, byte for byte as a small one would."""
    body = chat(b"x" * MIB)
    members, _ = run(scanning(body, READ, NONCE))
    changes = {"model": b'"n"', "max_tokens": b"7"}
    pieces = members.to_send(changes)
    assert b"".join(pieces) == scan(body, READ).rewrite(changes)
    assert all(isinstance(piece, memoryview) for piece in pieces if len(piece) > 64)
    assert members.to_send({}) is body


def test_a_member_that_is_written_again_is_read_whole() -> None:
    """Options that go on with a change are those of the client, whatever strings they have; endless ones are refused."""
    body = b'{"stream_options":{"include_usage":false,"x":"%b"},"y":"%b"}' % (b"a" * 5000, b"b" * MIB)
    members, _ = run(scanning(body, frozenset({"stream_options"}), NONCE))
    options = members.members("stream_options", frozenset({"include_usage"}))
    assert b"a" * 5000 in options.rewrite({"include_usage": b"true"})
    members, _ = run(scanning(body, frozenset({"y"}), NONCE))
    for read in (members.string, lambda name: members.members(name, frozenset())):
        with pytest.raises(ApiError, match="too long"):
            read("y")


async def test_turns_are_taken_one_step_at_a_time() -> None:
    """Two large bodies at once do not double what others wait for."""
    turns = Turns()
    bodies = [chat(b"x" * MIB), chat(b"y" * MIB)]
    import asyncio

    await asyncio.gather(*(turns.take(scanning(body, READ, NONCE)) for body in bodies))
    assert turns.steps >= 2 * MIB // STEP_BYTES
    assert (await abridged(b"{", turns)).document == b"{"
    assert (await abridged(b'"' * (MIB + 1), turns)).document == b""


@pytest.mark.parametrize("stream", [False, True])
async def test_a_large_request_is_answered_and_charged(stream: bool) -> None:
    """A request of megabytes goes on byte for byte but for our wish, and is charged like any other."""
    async with built() as house:
        body = json.dumps(house_chat(stream=stream, user="x" * 2 * MIB)).encode()
        answer = await house.ask(body=body)
        assert answer.status == 200
        assert house.exchanges.house.turns.steps >= 2 * MIB // STEP_BYTES
        (call,) = await house.calls()
        wished = len(b',"stream_options":{"include_usage":true}') if stream else 0
        assert call["body_bytes"] == len(body) + wished
        assert [row.source for row in house.ledger.rows] == ["provider"]


@pytest.mark.parametrize("parts", [2_000, 8_000])
async def test_a_foreign_file_is_found_among_many_parts(parts: int) -> None:
    """What is another's is 404 behind thousands of parts too, whether the body is read at once or in steps."""
    async with built() as house:
        part = {"type": "input_text", "text": "lorem ipsum"}
        content = [*[part] * parts, {"type": "input_file", "file_id": "file-foreign"}]
        body = json.dumps({"model": "gpt-4o-mini", "input": [{"role": "user", "content": content}]}).encode()
        assert len(body) > large_body.SMALL_BYTES
        answer = await house.ask("/v1/responses", body=body)
        assert answer.status == 404
        assert b"file-foreign" in answer.body
        assert not await house.calls()


async def test_a_large_answer_is_counted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a provider says at length is counted to its last word where it tells no usage."""
    for module in (plain, large_body):
        monkeypatch.setattr(module, "DIRECT_BYTES", 600)
    async with built() as house:
        answer = await house.ask(body=house_chat("tokens=400,no_usage", max_tokens=500))
        said = json.loads(answer.body)["choices"][0]["message"]["content"]
        assert len(said) > 1000
        assert "".join(house.counter.asked[-1]) == said
        assert house.ledger.rows[-1].source == "counted"


LETTERS = st.sampled_from(
    ['"', "\\", "u", "d", "8", "0", "3", "\\ud83d", "\\ude00", '\\"', "\\\\", "\\n", "a", " ", "é", "😀", "\n"]
)
CONTENTS = st.lists(LETTERS, max_size=40).map("".join)
BODIES = st.builds(
    lambda text, more, name, tail: (
        f'{{"model":"m","messages":[{{"content":"{text}"}}],"{name}":"{more}"{tail}'.encode()
    ),
    CONTENTS,
    CONTENTS,
    st.sampled_from(["x", "stream", "model", "max_tokens"]),
    st.sampled_from(["}", "} ", "", ",}", '}"']),
)


@given(BODIES, st.integers(8, 20))
@settings(max_examples=300)
def test_same_in_steps_of_any_size(body: bytes, step_bytes: int) -> None:
    """Wherever a step ends (in an escape, a pair, a character), members, texts and verdicts are those of one go."""
    same_in_steps(body, step_bytes)


VALUES = st.recursive(
    st.sampled_from(["0", "null", '"a"', '"file_id"', '"\\ud83d"', '"[,"', "-1e9", "1 ", '"' + "x" * 30 + '"']),
    lambda inner: (
        st.builds("[{}]".format, st.lists(inner, max_size=5).map(",".join))
        | st.builds("{{{}}}".format, st.lists(inner.map('"audio": {}'.format), max_size=4).map(" ,".join))
    ),
    max_leaves=40,
)
DENSE = st.builds(
    lambda values, place, change: f'{{"messages":[{values}],"x":{values},"model":"m"}}'.replace(
        *place, change
    ).encode(),
    st.lists(VALUES, max_size=6).map(",".join),
    st.sampled_from([("~", "~")] * 4 + [("[", "[,"), ("]", ",]"), ("]", "}"), (",", ",,"), ("{", ""), ("]", "")]),
    st.integers(1, 3),
)


@given(DENSE, st.integers(8, 40))
@settings(max_examples=300)
def test_same_in_pieces_of_any_size(body: bytes, step_bytes: int) -> None:
    """Wherever a list is taken apart, it is valid or not, counted and searched as in one go."""
    same_in_steps(body, step_bytes)


STRUCTURES = {
    "objects": b"{},",
    "empty": b'"",',
    "numbers": b"1,",
    "nested": b"[" * 200 + b"]" * 200 + b",",
    "parts": b'{"type":"text","text":"lorem ipsum"},',
    "cut": b'"%b",' % (b"a" * 900),
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_reads_structure_in_small_steps(name: str) -> None:
    """However many values a body has, no step reads more of them than its share."""
    filling = STRUCTURES[name]
    body = b'{"messages":[%b0],"model":"m"}' % (filling * (2 * MIB // len(filling)))
    members, steps = run(scanning(body, READ, NONCE, (MARKS,)))
    assert steps >= 2 * MIB // STEP_BYTES + 2 * len(members.document) // STEP_BYTES
    assert members.spans == scan(body, READ).spans
    raw = members.raw("messages")
    assert members.counts("messages", raw, MIB) == counts(raw, MIB)
    walked, _ = run(walking(members.document, members.abridged.rests))
    assert max(piece.end - piece.start for piece in walked.pieces) < 2 * STEP_BYTES


def test_a_hundred_thousand_parts_of_text_are_a_request() -> None:
    """A context of a million tokens in small parts is read, bounded and counted, and nothing of it in one step."""
    part = b'{"type":"text","text":"lorem ipsum dolor sit amet consectetur"},'
    body = b'{"messages":[{"role":"user","content":[%b]}],"model":"m"}' % (part * 100_000)[:-1]
    members, steps = run(scanning(body, READ, NONCE, (MORE, ESCAPED)))
    assert steps > 3 * len(body) // STEP_BYTES
    assert read_facts("chat", members, "m").text_bytes == len(body)
    (texts, _), steps = run(request_texts("chat", members))
    assert (len(texts), steps) == (100_000, 2 * 100_000 // TEXTS_STEP)


def test_refuses_what_no_request_has() -> None:
    """A body of little but structure is refused before it is read, and so is space without end."""
    with pytest.raises(ApiError, match="outside of its long strings"):
        run(scanning(b'{"messages":[%b0]}' % (b"{}," * 3 * MIB), READ, NONCE))
    for endless in (b" ", b"1", b'{"a":', b"["):
        with pytest.raises(ApiError, match="without a comma"):
            run(scanning(b'{"messages":[0%b,0]}' % (endless * MIB), READ, NONCE))


def test_a_string_that_is_short_enough_stays() -> None:
    """Nothing is cut of what an id, a name or an option could be."""
    body = b'{"x":"%b","y":"%b"}' % (b"a" * 700, b"b" * 2000)
    short, _ = run(abridging(body, NONCE))
    assert b'"%b"' % (b"a" * 700) in short.document
    assert len(short.document) < 1400
    assert short.origin(len(short.document)) == len(body)
    assert 256 + len(b'"') < abridged_module.HEAD_BYTES
