"""What a request that failed leaves in memory: nothing that only the cycle collector, which comes seldom, could free."""

import asyncio
import gc
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType

import pytest

import meterproxy.proxy
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.settings import ExchangeSettings
from tests.proxy.house import House, built, chat, request, until
from tests.proxy.raw import connected
from tests.proxy.scripted import Peer, Script, provider

PACKAGE = str(Path(meterproxy.proxy.__file__ or "").parent)
SECONDS = 0.05
"""After which the provider's silence is a failure."""

HARMLESS = {"Dialer._connect"}
"""aiohappyeyeballs ties this knot by itself; there is nothing large in it."""

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n"


@pytest.fixture(scope="module", autouse=True)
def nothing_older() -> Iterator[None]:
    """The collector looks through what these tests make, not each time through all that was there before."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def frames_in_cycles() -> set[str]:
    """The names of the proxy's own functions whose frames, with all that is in them, wait for the cycle collector."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        codes = {left.f_code for left in gc.garbage if isinstance(left, FrameType)}
        return {code.co_qualname for code in codes if code.co_filename.startswith(PACKAGE)} - HARMLESS
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.collect()


def saying(answer: bytes) -> Script:
    """Read a request, say this and hang up."""

    async def script(peer: Peer) -> None:
        await peer.request()
        await peer.send(answer)

    return script


async def silence(peer: Peer) -> None:
    """Read a request and say nothing."""
    await peer.request()
    await peer.closed()


FAILURES = {
    "hangs up before an answer": saying(b""),
    "talks garbage": saying(b"garbage\r\n\r\n"),
    "says nothing": silence,
    "breaks off a plain answer": saying(HEAD % b"application/json" + b"Content-Length: 100\r\n\r\n{"),
    "breaks off a stream": saying(HEAD % b"text/event-stream" + b"Content-Length: 100\r\n\r\ndata: {}\n\n"),
    "breaks off an error": saying(b"HTTP/1.1 400 Bad\r\nContent-Length: 100\r\n\r\n{"),
    "refuses us": saying(b"HTTP/1.1 401 No\r\nContent-Length: 2\r\n\r\n{}"),
}
"""What a provider does."""


async def left_by(house: House, ask: Callable[[], Awaitable[object]]) -> set[str]:
    """What a request leaves to the cycle collector, which does not come meanwhile."""
    await ask()  # what is made once is made now
    await house.ended()
    frames_in_cycles()
    gc.disable()
    try:
        await ask()
        await house.ended()
        return frames_in_cycles()
    finally:
        gc.enable()


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("failure", FAILURES)
async def test_provider_fails(failure: str, stream: bool) -> None:
    """However a provider fails, a request's body is not kept."""
    script = FAILURES[failure]
    async with (
        provider(script, script, script, script) as served,
        built(
            provider_url=f"http://127.0.0.1:{served.port}/v1",
            first_byte_seconds=SECONDS,
            between_bytes_seconds=SECONDS,
        ) as house,
    ):
        assert await left_by(house, lambda: house.ask(body=chat(stream=stream))) == set()
        await house.exchanges.close()


async def test_provider_cannot_be_reached() -> None:
    """Nobody listens where the provider should be."""
    async with provider() as served:
        port = served.port
    async with built(provider_url=f"http://127.0.0.1:{port}/v1") as house:
        assert await left_by(house, lambda: house.ask(body=chat())) == set()


@pytest.mark.parametrize("simulate", ["hang", "slow=5"])
@pytest.mark.parametrize("stream", [False, True])
async def test_cut_short(stream: bool, simulate: str) -> None:
    """Nor is one that a shutdown cannot wait for, whatever it waits for."""
    async with built() as house:

        async def be_cut_short() -> None:
            asking = asyncio.ensure_future(house.ask(body=chat(simulate, stream=stream)))
            await until(lambda: house.ledger.open)
            house.exchanges.cut_all_short(ApiError(Case.UNAVAILABLE, "The service is shutting down."))
            await asyncio.wait((asking,))

        assert await left_by(house, be_cut_short) == set()


ANSWERED = """
/v1/chat/completions | {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}]}
/v1/chat/completions | {"model": "gpt-4o", "messages": [{"role": "user", "content": "Hi"}], "stream": true}
/v1/chat/completions | {"model": "gpt-4o"}
/v1/chat/completions | {"model": "no-such-model", "messages": []}
/v1/chat/completions | {"model": "gpt-4o", "messages": [
/v1/responses        | {"model": "gpt-4o", "input": "Hi"}
/v1/responses        | {"model": "gpt-4o", "input": "Hi", "stream": true}
/v1/responses        | {"model": "gpt-4o", "input": "Hi", "background": true}
/v1/responses        | {"model": "gpt-4o", "input": "Hi", "previous_response_id": "resp_nobodys"}
/v1/moderations      | {"input": "Hi"}
/v1/conversations    | {"items": [{"type": "message", "role": "user", "content": "Hi"}]}
"""


@pytest.mark.parametrize("asked", ANSWERED.strip().splitlines())
async def test_answered(asked: str) -> None:
    """Nor is one that was answered or refused, as most are."""
    path, _, body = asked.partition("|")
    async with built() as house:
        assert await left_by(house, lambda: house.ask(path.strip(), body.strip().encode())) == set()


@pytest.mark.parametrize("seconds", [0.0, 20.0])
async def test_client_leaves_a_stream(seconds: float) -> None:
    """Nor is one whose client has left, be it read on or not."""
    async with built(ExchangeSettings(leaver_seconds=seconds)) as house:

        async def leave() -> None:
            async with connected(house.port) as connection:
                connection.send(request("/v1/chat/completions", chat("slow=0.005", stream=True)))
                await connection.head()

        assert await left_by(house, leave) == set()


@pytest.mark.parametrize("ends", [False, True])
async def test_body_breaks_off(ends: bool) -> None:
    """What had come of a body whose client left, or closed its sending half, is not kept."""
    async with built() as house:

        async def leave() -> None:
            async with connected(house.port) as connection:
                connection.send(request("/v1/chat/completions", chat())[:-10])
                await until(lambda: house.exchanges.open)
                if ends:
                    connection.writer.write_eof()
                    assert (await connection.answer()).status == 400

        assert await left_by(house, leave) == set()
