"""All routes of the API, noun by noun."""

from typing import Final

from meterproxy.control import account_endpoints, fleet_endpoints, health_endpoints, key_endpoints, limit_endpoints
from meterproxy.control.route import Route

ROUTES: Final[tuple[Route, ...]] = (
    *health_endpoints.ROUTES,
    *account_endpoints.ROUTES,
    *key_endpoints.ROUTES,
    *limit_endpoints.ROUTES,
    *fleet_endpoints.ROUTES,
)
