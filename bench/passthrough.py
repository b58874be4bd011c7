"""The yardstick: a plain pass-through as anyone would write it with aiohttp on uvloop; it meters nothing.

Run by `python -m bench.passthrough --provider-port N [--cpu N]`; prints its port when ready.
"""

import argparse
import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Final

import uvloop
from aiohttp import ClientSession, TCPConnector, web

from bench.processes import pin, raise_file_limit

_DROPPED: Final = frozenset({"host", "content-length", "transfer-encoding", "connection", "keep-alive"})
_SESSION: Final = web.AppKey("session", ClientSession)
_BODY_BYTES: Final = 64 * 1024 * 1024


def make_app(provider_port: int) -> web.Application:
    app = web.Application(client_max_size=_BODY_BYTES)

    async def session(app: web.Application) -> AsyncIterator[None]:
        connector = TCPConnector(limit=0)
        async with ClientSession(f"http://127.0.0.1:{provider_port}", connector=connector) as opened:
            app[_SESSION] = opened
            yield

    app.cleanup_ctx.append(session)
    app.router.add_route("*", "/{path:.*}", _forward)
    return app


async def _forward(request: web.Request) -> web.StreamResponse:
    body = await request.read()
    headers = {name: value for name, value in request.headers.items() if name.lower() not in _DROPPED}
    opened = request.app[_SESSION].request(request.method, request.path_qs, data=body, headers=headers)
    async with opened as upstream:
        kept = {name: value for name, value in upstream.headers.items() if name.lower() not in _DROPPED}
        response = web.StreamResponse(status=upstream.status, headers=kept)
        response.content_length = upstream.content_length
        await response.prepare(request)
        async for chunk in upstream.content.iter_any():
            await response.write(chunk)
        await response.write_eof()
        return response


async def _serve(provider_port: int) -> None:
    runner = web.AppRunner(make_app(provider_port), access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=8_192).start()
    print(runner.addresses[0][1], flush=True)
    await asyncio.Event().wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--provider-port", type=int, required=True)
    parser.add_argument("--cpu", type=int)
    options = parser.parse_args()
    logging.getLogger("aiohttp.server").disabled = True  # it would tell of every client that leaves a stream
    pin(options.cpu)
    raise_file_limit()
    uvloop.run(_serve(options.provider_port))


if __name__ == "__main__":
    main()
