"""A browser as a person uses one, that keeps what went wrong on the way: errors in the console, policies violated."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright

from tests.service.running import Service
from tests.tools import required

PASSWORD = "correct horse battery"
SERIOUS = {"serious", "critical"}
OF_COLOURS = {"runOnly": {"type": "rule", "values": ["color-contrast", "link-in-text-block"]}}
"""The rules that may find something else on a page when its colours change and nothing but they."""


@dataclass
class Visit:
    """One person's window on a service."""

    page: Page
    origin: str
    trouble: list[str] = field(default_factory=list)

    async def open(self, path: str) -> None:
        await self.page.goto(f"{self.origin}{path}")

    async def sign_in(self, email: str, password: str) -> None:
        await self.open("/login")
        await self.page.get_by_label("E-mail").fill(email)
        await self.page.get_by_label("Password").fill(password)
        await self.page.get_by_role("button", name="Sign in").click()
        await self.page.wait_for_url(f"{self.origin}/")

    async def press(self, name: str) -> None:
        await self.page.get_by_role("button", name=name, exact=True).click()

    def hear(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.trouble.append(f"{message.type}: {message.text}")

    async def barriers(self, rules: Mapping[str, Any] = MappingProxyType({})) -> list[str]:
        """What on the page keeps somebody out, by all rules or by these."""
        options = {"resultTypes": ["violations"], **rules}
        found: dict[str, Any] = (await Axe().run(self.page, options=options)).response
        return [
            f"{one['id']}: {node['html'][:160]}"
            for one in found["violations"]
            if one["impact"] in SERIOUS
            for node in one["nodes"]
        ]


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    executable = required("chromium")
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=executable, args=["--no-sandbox", "--disable-gpu"])
        try:
            yield running
        finally:
            await running.close()


@asynccontextmanager
async def visit(running: Browser, service: Service, **settings: Any) -> AsyncIterator[Visit]:
    context = await running.new_context(**{"viewport": {"width": 1440, "height": 900}, **settings})
    await context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = await context.new_page()
    visiting = Visit(page, service.origin)
    page.on("console", visiting.hear)
    page.on("pageerror", lambda error: visiting.trouble.append(f"page error: {error}"))
    try:
        yield visiting
        assert visiting.trouble == []
    finally:
        await context.close()
