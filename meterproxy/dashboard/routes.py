"""All pages."""

from typing import Final

from meterproxy.control.route import Route
from meterproxy.dashboard import (
    activity_pages,
    chat_page,
    credit_pages,
    key_pages,
    live,
    member_pages,
    notification_pages,
    operator_pages,
    overview_page,
    price_pages,
    provider_pages,
    purchase_pages,
    report_pages,
    sign_in_pages,
    static,
)

PAGES: Final[tuple[Route, ...]] = (
    *static.ROUTES,
    *sign_in_pages.ROUTES,
    *overview_page.ROUTES,
    *live.ROUTES,
    *activity_pages.ROUTES,
    *credit_pages.ROUTES,
    *purchase_pages.ROUTES,
    *notification_pages.ROUTES,
    *key_pages.ROUTES,
    *chat_page.ROUTES,
    *report_pages.ROUTES,
    *price_pages.ROUTES,
    *member_pages.ROUTES,
    *operator_pages.ROUTES,
    *provider_pages.ROUTES,
)
