"""Chat: a signed-in user asks a model on his organization's credit, on the same way through metering as `/v1`."""

from typing import Annotated, Any, Final

import orjson
from aiohttp import web
from pydantic import ConfigDict, Field

from meterproxy.control.access import Permission
from meterproxy.control.bodies import Body
from meterproxy.control.call import Call, Services
from meterproxy.control.principal import User
from meterproxy.control.route import Endpoint, Route
from meterproxy.errors import Case

_REFUSALS: Final = (
    Case.CREDIT_SPENT,
    Case.ACCOUNT_FROZEN,
    Case.MODEL_NOT_FOUND,
    Case.RESOURCE_BUSY,
    Case.UPSTREAM_UNREACHABLE,
    Case.UPSTREAM_TIMEOUT,
)


class ChatBody(Body):
    """A chat completion as OpenAI's API takes it; all of its members pass."""

    model_config = ConfigDict(extra="allow", frozen=True)

    model: Annotated[str, Field(min_length=1, max_length=256)]
    messages: Annotated[list[Any], Field(min_length=1)]


def _chat(extra: dict[str, Any]) -> Endpoint:
    async def endpoint(on: Services, call: Call) -> web.StreamResponse | None:
        principal = call.acting.principal
        user = principal if isinstance(principal, User) and call.acting.role is not None else None
        secret = await on.keys.chat_secret(call.account_id, None if user is None else user.id, on.tokens.key_secret)
        body = await call.request.read()
        if extra:
            body = orjson.dumps({**orjson.loads(body), **extra})
        await on.machine.exchange(call.request, secret, body)
        return None

    return endpoint


def _route(path: str, summary: str, extra: dict[str, Any], media: tuple[str, ...]) -> Route:
    return Route(
        method="POST",
        path=path,
        permission=Permission.WRITE_OWN,
        endpoint=_chat(extra),
        summary=summary,
        body=ChatBody,
        media=media,
        refusals=_REFUSALS,
    )


_EITHER: Final = ("application/json", "text/event-stream")
_STREAMED: Final = {"stream": True, "stream_options": {"include_usage": True}}

ROUTES: Final[tuple[Route, ...]] = (
    _route("/api/chat", "Ask a model; body and answer are those of /v1/chat/completions", {}, _EITHER),
    _route("/api/ai/chat", "The same as /api/chat", {}, _EITHER),
    _route("/api/ai/chat/stream", "The same, always streamed and with usage", _STREAMED, ("text/event-stream",)),
)
