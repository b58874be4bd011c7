"""Prices: the models that can be had, and what a given usage would cost with each of them."""

from typing import Final

from aiohttp import web

from meterproxy.control import price_endpoints, queries
from meterproxy.control.access import Permission
from meterproxy.control.call import Call, Services
from meterproxy.control.price_endpoints import Compared, Comparison, ModelPrice
from meterproxy.control.route import Route
from meterproxy.dashboard.pages import page, page_route
from meterproxy.errors import ApiError

EXAMPLE: Final = {"input_tokens": 1_000_000, "cached_tokens": 0, "output_tokens": 200_000}
"""What is compared where nothing is said."""


async def _prices(on: Services, call: Call) -> web.Response:
    models: list[ModelPrice] = []
    trouble = None
    try:
        models = (await price_endpoints.prices(on, call)).data
    except ApiError as error:
        trouble = error.message
    return await page(on, call, "prices.html", models=models, trouble=trouble)


async def _compared(on: Services, call: Call) -> web.Response:
    given = {name: value for name, value in call.request.query.items() if value and name in EXAMPLE}
    usage, compared, error = Comparison(**EXAMPLE), list[Compared](), None
    try:
        usage = queries.read(Comparison, given) if given else usage
        compared = (await price_endpoints.compared(on, call.asking(query=usage))).data
    except ApiError as cannot_be_told:
        error = cannot_be_told
    return await page(on, call, "compare.html", error=error, usage=usage, given=given, compared=compared)


ROUTES: Final[tuple[Route, ...]] = (
    page_route("GET", "/prices", Permission.READ_OWN, _prices),
    page_route("GET", "/prices/compare", Permission.READ_OWN, _compared, queries.AnyQuery),
)
