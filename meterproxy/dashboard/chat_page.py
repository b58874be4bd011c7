"""Chat (pick a model, ask, see the answer as it comes and what each message cost), and the API's document."""

from typing import Final

from aiohttp import web

from meterproxy.control.access import Permission
from meterproxy.control.call import Call, Services
from meterproxy.control.price_endpoints import ModelPrice, prices
from meterproxy.control.route import Route
from meterproxy.dashboard.pages import page, page_route
from meterproxy.errors import ApiError


async def _chat(on: Services, call: Call) -> web.Response:
    models: list[ModelPrice] = []
    trouble = None
    try:
        models = [model for model in (await prices(on, call)).data if model.chats]
    except ApiError as error:
        trouble = error.message
    return await page(on, call, "chat.html", models=models, trouble=trouble)


async def _docs(on: Services, call: Call) -> web.Response:
    return await page(on, call, "docs.html")


ROUTES: Final[tuple[Route, ...]] = (
    page_route("GET", "/chat", Permission.WRITE_OWN, _chat),
    page_route("GET", "/docs", Permission.OPEN, _docs),
)
