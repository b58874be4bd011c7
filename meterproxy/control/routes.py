"""All routes of the API, noun by noun."""

from functools import cache
from typing import Any, Final

from aiohttp import web

from meterproxy.control import (
    account_endpoints,
    activity_endpoints,
    admin_endpoints,
    audit_endpoints,
    auth_endpoints,
    budget_endpoints,
    chat_endpoints,
    credit_endpoints,
    fleet_endpoints,
    health_endpoints,
    key_endpoints,
    limit_endpoints,
    log_endpoints,
    notification_endpoints,
    openai_usage_endpoints,
    organization_endpoints,
    own_key_endpoints,
    price_endpoints,
    provider_endpoints,
    purchase_endpoints,
    refusal_endpoints,
    usage_endpoints,
)
from meterproxy.control.access import Permission
from meterproxy.control.answers import json_answer
from meterproxy.control.call import Call, Services
from meterproxy.control.openapi import document
from meterproxy.control.route import Route
from meterproxy.proxy.endpoints import ENDPOINTS


async def _document(_on: Services, _call: Call) -> web.Response:
    return json_answer(_told())


@cache
def _told() -> dict[str, Any]:
    return document(ROUTES, ENDPOINTS)


ROUTES: Final[tuple[Route, ...]] = (
    *health_endpoints.ROUTES,
    Route(
        method="GET",
        path="/openapi.json",
        permission=Permission.OPEN,
        endpoint=_document,
        summary="This document",
        media=("application/json",),
    ),
    *account_endpoints.ROUTES,
    *key_endpoints.ROUTES,
    *limit_endpoints.ROUTES,
    *fleet_endpoints.ROUTES,
    *audit_endpoints.ROUTES,
    *auth_endpoints.ROUTES,
    *organization_endpoints.ROUTES,
    *own_key_endpoints.ROUTES,
    *credit_endpoints.ROUTES,
    *purchase_endpoints.ROUTES,
    *notification_endpoints.ROUTES,
    *activity_endpoints.ROUTES,
    *usage_endpoints.ROUTES,
    *log_endpoints.ROUTES,
    *budget_endpoints.ROUTES,
    *refusal_endpoints.ROUTES,
    *chat_endpoints.ROUTES,
    *price_endpoints.ROUTES,
    *openai_usage_endpoints.ROUTES,
    *admin_endpoints.ROUTES,
    *provider_endpoints.ROUTES,
)
