"""Processes for the supervisor's tests, which tell what happens on the standard output that they share.

`python -m tests.runtime.supervised supervisor STAGES`: STAGES is `name:mode,name:mode;name:mode`; the mode of a
PostgreSQL is its data directory.
`python -m tests.runtime.supervised child NAME MODE`: MODE is `good`, `stubborn`, `refusing`, `dying` or `serving`.
"""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

from meterproxy.errors import StartFailed
from meterproxy.runtime import parent
from meterproxy.runtime.embedded import EmbeddedPostgres
from meterproxy.runtime.listening import close_all, listen
from meterproxy.runtime.part import ChildSpec
from meterproxy.runtime.supervisor import Supervisor
from tests.postgres import bin_dir


def tell(line: str) -> None:
    os.write(1, f"{line}\n".encode())


async def supervise(described: str) -> int:
    sockets = await listen("127.0.0.1", 0, 1)
    tell(f"port {sockets[0].getsockname()[1]}")
    stages = [[spec(part, sockets[0].fileno()) for part in stage.split(",")] for stage in described.split(";")]
    supervisor = Supervisor(stages, on_ready=lambda: tell("ready"), on_stopping=lambda: close_all(sockets))
    try:
        await supervisor.run()
    except StartFailed as error:
        tell(f"failed: {error}")
        return 1
    tell("over")
    return 0


def spec(part: str, descriptor: int) -> ChildSpec | EmbeddedPostgres:
    name, mode = part.split(":")
    if name == "postgres":
        return EmbeddedPostgres(Path(mode), bin_dir())
    command = (sys.executable, "-m", "tests.runtime.supervised", "child", name, mode)
    return ChildSpec(name, command, descriptors={"SLOT_FD": descriptor}, stop_seconds=60)


async def child(name: str, mode: str) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, (lambda: tell(f"{name} asked")) if mode == "stubborn" else stop.set)
    parent.on_parent_gone(stop.set)
    if mode == "refusing":
        parent.say_failed("no room in\nhere")
        return 1
    if mode == "dying":
        return 3
    tell(f"{name} started {os.getpid()}")
    if mode == "serving":
        await asyncio.start_server(serve, sock=socket.socket(fileno=int(os.environ["SLOT_FD"])))
    parent.say_ready()
    await stop.wait()
    tell(f"{name} ended")
    return 0


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(str(os.getpid()).encode())
    writer.close()


if __name__ == "__main__":
    if sys.argv[1] == "supervisor":
        sys.exit(asyncio.run(supervise(sys.argv[2])))
    parent.die_with_parent()
    sys.exit(asyncio.run(child(sys.argv[2], sys.argv[3])))
