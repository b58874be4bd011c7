"""The simulated provider as an HTTP server: routes, and what tests may ask of it.

`GET /_simulator/calls` tells what was received, `POST /_simulator/reset` forgets it; both need no credential.
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final
from weakref import WeakSet

import orjson
from aiohttp import web

from meterproxy.simulator.calls import Call, Calls
from meterproxy.simulator.delivery import deliver
from meterproxy.simulator.keeper import ROUTES, Route
from meterproxy.simulator.models import Operation
from meterproxy.simulator.provider import Provider, Reply
from meterproxy.simulator.settings import SimulatorSettings

_OPERATIONS: Final[Mapping[str, Operation]] = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completion",
    "/v1/embeddings": "embedding",
    "/v1/responses": "response",
    "/v1/responses/compact": "compaction",
    "/v1/moderations": "moderation",
}
_BODY_BYTES: Final = 256 * 1024 * 1024
_SHUTDOWN_SECONDS: Final = 2.0

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Answering = Callable[[web.Request, bytes], Reply]


class _Server:
    """What the routes share: the provider, the calls, and which connections were used before."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self.settings = settings
        self.provider = Provider(settings)
        self.calls = Calls(settings.calls_kept)
        self.closing = asyncio.Event()
        self._used: WeakSet[asyncio.Transport] = WeakSet()

    def handler(self, answering: Answering) -> Handler:
        """A route that records the call, works out the reply and delivers it."""

        async def handle(request: web.Request) -> web.StreamResponse:
            reused = request.transport in self._used
            if request.transport is not None:
                self._used.add(request.transport)
            call = Call(request.method, request.path, tuple(request.headers.items()))
            self.calls.add(call)
            call.body = await request.read()
            started = time.monotonic()
            reply = answering(request, call.body)
            call.status = reply.status
            headers = self.provider.headers(reply, int((time.monotonic() - started) * 1000))
            return await deliver(request, reply, headers, self.settings, call, reused=reused, closing=self.closing)

        return handle

    def operation(self, operation: Operation) -> Handler:
        return self.handler(lambda request, body: self.provider.answer(operation, request.headers, body, time.time()))

    def about_kept(self, route: Route) -> Handler:
        return self.handler(
            lambda request, body: self.provider.about_kept(
                route.answer, request.headers, tuple(request.match_info.values()), request.query, body, time.time()
            )
        )

    async def close(self, _app: web.Application) -> None:
        self.closing.set()

    async def show_calls(self, _request: web.Request) -> web.Response:
        return web.Response(body=orjson.dumps(self.calls.document()), content_type="application/json")

    async def reset(self, _request: web.Request) -> web.Response:
        self.calls.clear()
        self.provider.reset()
        return web.Response(status=204)


def make_app(settings: SimulatorSettings | None = None) -> web.Application:
    """Build the application; everything it remembers lives and dies with it."""
    server = _Server(settings or SimulatorSettings())
    provider = server.provider
    app = web.Application(client_max_size=_BODY_BYTES)
    app.on_shutdown.append(server.close)
    for path, operation in _OPERATIONS.items():
        app.router.add_post(path, server.operation(operation))
    for route in ROUTES:
        app.router.add_route(route.method, route.path, server.about_kept(route))
    app.router.add_get("/v1/models", server.handler(lambda request, _: provider.models(request.headers)))
    app.router.add_get(
        "/v1/models/{id}",
        server.handler(lambda request, _: provider.model(request.headers, request.match_info["id"])),
    )
    app.router.add_get("/_simulator/calls", server.show_calls)
    app.router.add_post("/_simulator/reset", server.reset)
    app.router.add_route(
        "*", "/{path:.*}", server.handler(lambda request, _: provider.unknown(request.method, request.path))
    )
    return app


@asynccontextmanager
async def running(
    settings: SimulatorSettings | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    shutdown_seconds: float = _SHUTDOWN_SECONDS,
    tls: ssl.SSLContext | None = None,
) -> AsyncIterator[str]:
    """Run the provider for the duration of a block; yields its base URL, as an OpenAI SDK is given it."""
    runner = web.AppRunner(make_app(settings), access_log=None, shutdown_timeout=shutdown_seconds)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port, ssl_context=tls).start()
        bound = runner.addresses[0][1]
        yield f"{'https' if tls else 'http'}://{f'[{host}]' if ':' in host else host}:{bound}/v1"
    finally:
        await runner.cleanup()


async def serve(host: str, port: int, settings: SimulatorSettings | None = None) -> None:
    """Run the provider until cancelled."""
    async with running(settings, host, port):
        await asyncio.Event().wait()
