"""Providers' streams, cut in every way, through the meter and through a whole proxy: byte for byte what it should be."""

import itertools
import re
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproxy.proxy.meter import StreamMeter
from meterproxy.proxy.texts import TextPool
from tests.proxy.house import House, built, chat, request
from tests.proxy.provider_streams import STREAMS, Told
from tests.proxy.raw import connected
from tests.proxy.scripted import Peer, provider

NEWLINES = (b"\n", b"\r\n", b"\r")
OPTION = {"stream_options": {"include_usage": True}}


def forms(told: Told) -> Iterator[Told]:
    """A stream in each line end, with and without a byte order mark, and cut off before its last empty line."""
    yield told
    for newline in NEWLINES:
        asked, unasked = (stream.replace(b"\n", newline) for stream in (told.asked, told.unasked))
        yield Told(asked, unasked, told.usage)
        yield Told(b"\xef\xbb\xbf" + asked, b"\xef\xbb\xbf" + unasked, told.usage)
        yield Told(asked.rstrip(), unasked.rstrip(), told.usage)


FORMS = [(name, form) for name, told in STREAMS.items() for form in forms(told)]


def through(stream: bytes, cuts: Iterable[int], *, editing: bool) -> tuple[bytes, object, int]:
    """What goes on of a stream in these pieces, what was read of it, and how many events it had."""
    meter = StreamMeter("chat", TextPool(), editing=editing)
    edges = [0, *sorted({cut for cut in cuts if 0 < cut < len(stream)}), len(stream)]
    forwarded = []
    for start, end in itertools.pairwise(edges):
        seen = meter.done
        forwarded.append(meter.feed(stream[start:end]))
        if meter.done and not seen:
            forwarded.append(meter.terminal)
    forwarded.append(meter.finish())
    meter.close()
    return b"".join(forwarded), meter.reading(), meter.events


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_any_cut_and_any_line_end(name: str, form: Told) -> None:
    """In one piece, byte by byte, in equal pieces, and cut in two at each place: the same bytes and the same reading."""
    whole = through(form.asked, (), editing=True)
    assert whole[0] == form.unasked
    assert whole[1].usage == form.usage  # type: ignore[attr-defined]
    size = len(form.asked)
    for width in (1, 2, 3, 7, 64, 500):
        assert through(form.asked, range(0, size, width), editing=True) == whole
        assert through(form.asked, range(0, size, width), editing=False) == (form.asked, *whole[1:])
    for cut in range(1, size, 1 if form is STREAMS[name] else 13):
        assert through(form.asked, (cut,), editing=True) == whole


@pytest.mark.parametrize("name", STREAMS)
def test_every_two_cuts_around_each_line_end(name: str) -> None:
    """All pairs of cuts near the places where lines end: where a CR and its LF, or two line ends, part."""
    sent = STREAMS[name].asked[-900:].replace(b"\n", b"\r\n")
    whole = through(sent, (), editing=True)
    ends = sorted({place + near for place in range(len(sent)) if sent[place : place + 1] == b"\r" for near in range(4)})
    for cuts in itertools.combinations(ends, 2):
        assert through(sent, cuts, editing=True) == whole


@settings(max_examples=300)
@given(st.sampled_from(FORMS), st.lists(st.integers(0, 4000), max_size=40))
def test_many_cuts(named: tuple[str, Told], cuts: list[int]) -> None:
    """Cut in many pieces."""
    form = named[1]
    assert through(form.asked, cuts, editing=True)[0] == form.unasked
    assert through(form.asked, cuts, editing=False)[0] == form.asked


def chunked(stream: bytes, width: int) -> bytes:
    pieces = [stream[place : place + width] for place in range(0, len(stream), width)]
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize("name", STREAMS)
@pytest.mark.parametrize("width", [1, 100, 100_000])
async def test_through_a_whole_proxy(name: str, width: int) -> None:
    """A client gets what the provider would have sent it, whether it asked for usage or not; both are charged alike."""
    told = STREAMS[name]
    heads = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"

    async def script(peer: Peer) -> None:
        while True:
            asked = await peer.request()
            stream = told.asked if b'"include_usage":true' in asked.body else told.unasked
            await peer.send(heads + chunked(stream, width))
            if b"last" in asked.body:
                await peer.closed()
                return

    async with provider(script) as served, built(provider_url=f"http://127.0.0.1:{served.port}/v1") as house:
        unasked = await house.ask(body=chat(stream=True))
        asked = await house.ask(body=chat(stream=True, user="last", **OPTION))
        await house.ended()
        first, second = house.ledger.rows
    assert unasked.body == told.unasked
    assert asked.body == told.asked
    assert first.usage == second.usage == told.usage
    assert first.source == second.source == "provider"


async def test_running_usage_that_only_our_option_would_bring() -> None:
    """vLLM heeds `continuous_usage_stats` only beside `include_usage`: what we ask for must not switch it on."""
    asked: list[bytes] = []

    async def script(peer: Peer) -> None:
        asked.append((await peer.request()).body)
        told = STREAMS["vllm"].asked
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nContent-Length: %d\r\n\r\n" % len(told))
        await peer.send(told)
        await peer.closed()

    async with provider(script) as served, built(provider_url=f"http://127.0.0.1:{served.port}/v1") as house:
        answer = await house.ask(body=chat(stream=True, stream_options={"continuous_usage_stats": True}))
    assert answer.body == STREAMS["vllm"].unasked
    assert b'"stream_options":{"continuous_usage_stats":false,"include_usage":true}' in asked[0]


FAULTS = [
    "", "newline=crlf", "newline=cr", "piece=1", "piece=7", "piece=1000,newline=crlf", "usage_beside_choices",
    "no_usage", "garbage", "no_done", "huge_line=300000", "error_event",
]  # fmt: skip
_OWN = re.compile(rb'"id":"[^"]*"|"created":\d+|"obfuscation":"[^"]*"|x{100,}')
"""What differs from one answer of the simulator to the next."""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("options", [{}, OPTION, {"stream_options": {"include_obfuscation": False}}])
@pytest.mark.parametrize(("path", "tokens"), [("/v1/chat/completions", 20), ("/v1/completions", 21)])
async def test_as_the_simulator_would_have_sent_it(fault: str, options: dict, path: str, tokens: int) -> None:
    """The client of the proxy and the client of the provider get the same stream, byte for byte but for ids.

    Faults in the middle of a stream come at the same event with the option and without for these numbers of tokens.
    """
    simulate = ",".join(filter(None, [f"tokens={tokens}", fault]))
    body = chat(simulate, stream=True, **options)
    if path == "/v1/completions":
        body |= {"model": "gpt-3.5-turbo-instruct", "prompt": body.pop("messages")[0]["content"]}
    async with built() as house:
        through_us, direct = await house.ask(path, body), await directly(house, path, body)
    assert through_us.status == direct.status == 200
    assert _OWN.sub(b"", through_us.body) == _OWN.sub(b"", direct.body)
    assert through_us.headers["content-type"] == direct.headers["content-type"]


RESPONSE_FAULTS = [
    "",
    "newline=crlf",
    "newline=cr",
    "piece=1",
    "piece=7",
    "piece=1000,newline=cr",
    "tokens=300,piece=100",
]
_OWN_IN_RESPONSES = re.compile(rb'[a-z]+_[0-9a-f]{20,}|"(?:created|completed)_at":\d+|"obfuscation":"[^"]*"')


@pytest.mark.parametrize("fault", RESPONSE_FAULTS)
@pytest.mark.parametrize("more", [{}, {"store": False}, {"background": True}], ids=["kept", "not kept", "background"])
async def test_responses_as_the_simulator_would_have_sent_them(fault: str, more: dict) -> None:
    """Streams of responses, whose events wait for their ids to be written down, are the provider's byte for byte."""
    text = f"Say hello. [[simulate: {fault or 'tokens=20'}]]"
    body = {"model": "gpt-4o", "input": text, "max_output_tokens": 400, "stream": True, **more}
    async with built() as house:
        through_us, direct = await house.ask("/v1/responses", body), await directly(house, "/v1/responses", body)
    assert through_us.status == direct.status == 200
    assert _OWN_IN_RESPONSES.sub(b"", through_us.body) == _OWN_IN_RESPONSES.sub(b"", direct.body)
    assert through_us.headers["content-type"] == direct.headers["content-type"]


async def directly(house: House, path: str, body: dict):
    port = int(house.provider_url.split("/")[2].rpartition(":")[2])
    async with connected(port) as connection:
        connection.send(request(path, body))
        return await connection.answer()
