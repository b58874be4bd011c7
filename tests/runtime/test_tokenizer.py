"""The tokenizer's helper process, asked over its socket."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from meterproxy.runtime import tokenizer
from meterproxy.runtime.part import ChildPart
from meterproxy.runtime.supervisor import ParentPipe
from meterproxy.runtime.tokenizer import ANSWER, HEADER, TokenizerClient, tokenizer_spec
from meterproxy.runtime.tokenizer_process import Tokenizer, encoding


@pytest.fixture
async def helper(reachable_dir: Path) -> AsyncIterator[ChildPart]:
    pipe = ParentPipe()
    part = ChildPart(tokenizer_spec(reachable_dir / "tokenizer"), pipe.read_end)
    await part.start()
    yield part
    await part.stop()
    pipe.close()


@pytest.fixture
async def client(helper: ChildPart, reachable_dir: Path) -> AsyncIterator[TokenizerClient]:
    asking = TokenizerClient(reachable_dir / "tokenizer")
    yield asking
    await asking.close()


@pytest.mark.parametrize(
    ("model", "texts", "tokens", "exact"),
    [
        ("gpt-4o-mini", ["hello world"], 2, True),
        ("gpt-4", ["hello world"], 2, True),
        ("gpt-4o", [], 0, True),
        ("gpt-4o", [""], 0, True),
        ("gpt-4o", ["hello", " world"], 2, True),
        ("llama-3", ["hello world"], 2, False),
        ("gpt-4o", ["<|endoftext|>"], 7, True),
        ("gpt-4o", ["a\ud800b"], 3, True),
        ("gpt-4o", ["a" * 1_000_000], 125_000, True),
    ],
)
async def test_counts(client: TokenizerClient, model: str, texts: list[str], tokens: int, exact: bool) -> None:
    """Tokens are those of the model's vocabulary, or an estimate by another one."""
    assert await client.count(model, texts) == (tokens, exact)


async def test_many_at_a_time(client: TokenizerClient) -> None:
    """Answers find their questions, in whatever order they come."""
    texts = ["word " * 40_000, *("one two three"[:length] for length in (3, 7, 13))]
    answers = await asyncio.gather(*(client.count("gpt-4o", [text]) for text in texts))
    assert answers == [(len(encoding("o200k_base").encode_ordinary(text)), True) for text in texts]


async def test_too_much_is_not_counted(client: TokenizerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What exceeds the stated maxima is left to an estimate at once."""
    monkeypatch.setattr(tokenizer, "MAX_BYTES", 10)
    assert await client.count("gpt-4o", ["twelve bytes"]) is None
    assert await client.count("gpt-4o", ["ten bytes!"]) == (3, True)
    monkeypatch.setattr(tokenizer, "MAX_REQUESTS", 0)
    assert await client.count("gpt-4o", ["few"]) is None


async def test_megabytes_are_several_questions(client: TokenizerClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is to be counted, it is encoded and sent in parts, and comes to the same."""
    monkeypatch.setattr(tokenizer, "QUESTION_BYTES", 1000)
    asking = asyncio.create_task(client.count("gpt-4o", ["hello world"] * 100))
    turns = 0
    while not asking.done():
        turns += 1
        await asyncio.sleep(0)
    assert await asking == (200, True)
    assert turns > 100 * (len("hello world") + tokenizer.TEXT_COST_BYTES) // 1000


async def test_no_helper(reachable_dir: Path) -> None:
    """Without a helper nothing is counted and nothing is waited for."""
    assert await TokenizerClient(reachable_dir / "nobody").count("gpt-4o", ["x"]) is None


async def test_late_answer_is_none(client: TokenizerClient, helper: ChildPart, reachable_dir: Path) -> None:
    """A helper that does not answer in time is not waited for."""
    os.kill(helper.pid, signal.SIGSTOP)
    hurried = TokenizerClient(reachable_dir / "tokenizer", deadline_seconds=0.05)
    assert await hurried.count("gpt-4o", ["x"]) is None
    os.kill(helper.pid, signal.SIGCONT)
    await hurried.close()
    assert await client.count("gpt-4o", ["x"]) == (1, True)


async def test_dead_helper_and_its_successor(client: TokenizerClient, helper: ChildPart) -> None:
    """A question that was on its way is None; the next one goes to the successor."""
    assert await client.count("gpt-4o", ["x"]) == (1, True)
    os.kill(helper.pid, signal.SIGSTOP)
    asked = asyncio.create_task(client.count("gpt-4o", ["x"]))
    await asyncio.sleep(0)
    os.kill(helper.pid, signal.SIGKILL)
    assert await asked is None
    assert await helper.ended() == "was ended by SIGKILL"
    await helper.start()
    assert await client.count("gpt-4o", ["x"]) == (1, True)


async def test_full_helper_reads_past(reachable_dir: Path) -> None:
    """A helper without room answers "not counted" and keeps the connection in step."""
    server = await asyncio.start_unix_server(Tokenizer(max_requests=8, max_bytes=10).serve, reachable_dir / "small")
    reader, writer = await asyncio.open_unix_connection(reachable_dir / "small")
    for number in (1, 2):
        writer.write(HEADER.pack(number, 200_000) + bytes(200_000))
        assert ANSWER.unpack(await reader.readexactly(ANSWER.size)) == (number, -1, False)
    writer.close()
    await writer.wait_closed()
    server.close()


async def test_garbage_is_not_counted(reachable_dir: Path) -> None:
    """A question that cannot be read is answered, and the connection lives on."""
    server = await asyncio.start_unix_server(Tokenizer().serve, reachable_dir / "own")
    reader, writer = await asyncio.open_unix_connection(reachable_dir / "own")
    for number in (1, 2):
        writer.write(HEADER.pack(number, 3) + b"\xff\xff\xff")
        assert ANSWER.unpack(await reader.readexactly(ANSWER.size)) == (number, -1, False)
    writer.close()
    await writer.wait_closed()
    server.close()


async def test_it_ends_with_its_parent(reachable_dir: Path) -> None:
    """When the pipe of the parent ends, the helper ends in order."""
    pipe = ParentPipe()
    part = ChildPart(tokenizer_spec(reachable_dir / "tokenizer"), pipe.read_end)
    await part.start()
    pipe.close()
    assert await part.ended() == "exited with 0"
    await part.stop()


async def test_it_ends_without_a_word(reachable_dir: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A worker that is still connected when the helper ends is no reason for a traceback."""
    pipe = ParentPipe()
    part = ChildPart(tokenizer_spec(reachable_dir / "tokenizer"), pipe.read_end)
    await part.start()
    client = TokenizerClient(reachable_dir / "tokenizer")
    assert await client.count("gpt-4o", ["x"]) == (1, True)
    capfd.readouterr()
    pipe.close()
    assert await part.ended() == "exited with 0"
    assert capfd.readouterr().err == ""
    await client.close()
    await part.stop()
