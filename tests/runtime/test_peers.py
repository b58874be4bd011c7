"""Questions between processes of one host: answered, or given up in time."""

import asyncio
import socket
from pathlib import Path

from meterproxy.runtime.peers import answer_at, ask, ask_all


async def test_answers_come_back(tmp_path: Path) -> None:
    """A question reaches the right answer with all that is sent along, on a path that a killed process has left."""
    path = tmp_path / "one"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    async def echo(rest: bytes) -> bytes:
        return rest

    server = await answer_at(path, {"echo": echo})
    large = bytes(range(256)) * 10_000
    assert await ask(path, "echo", 60, large) == large
    assert await ask(path, "unknown", 60) is None
    server.close()


async def test_nobody_is_waited_for_beyond_the_time(tmp_path: Path) -> None:
    """One is gone, one never answers, one fails, one answers: there is one answer."""
    stuck = asyncio.Event()

    async def never(_: bytes) -> bytes:
        await stuck.wait()
        return b"late"

    async def failing(_: bytes) -> bytes:
        raise ValueError

    async def well(_: bytes) -> bytes:
        return b"well"

    answers = {"never": never, "failing": failing, "well": well}
    servers = [await answer_at(tmp_path / name, {"how": answer}) for name, answer in answers.items()]
    paths = [tmp_path / name for name in ("gone", *answers)]
    assert await ask_all(paths, "how", 0.2) == [b"well"]
    stuck.set()
    for server in servers:
        server.close()
