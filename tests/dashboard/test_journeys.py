"""Journeys that people take through the pages, in a real browser, on a running service."""

import csv
import io
import re
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import openai
import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, expect

from meterproxy.simulator.app import running as simulator
from meterproxy.simulator.settings import SimulatorSettings
from tests import postgres
from tests.control.postbox import Postbox, postbox
from tests.dashboard.browsing import OF_COLOURS, PASSWORD, Visit, browser, visit
from tests.service.running import Service, free_port, service

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def box() -> AsyncIterator[Postbox]:
    async with postbox() as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_service(box: Postbox) -> AsyncIterator[Service]:
    port = free_port()
    environment = {
        "METERPROXY_REGISTRATION": "open",
        "METERPROXY_PUBLIC_URL": f"http://127.0.0.1:{port}",
        "METERPROXY_MAIL__HOST": "127.0.0.1",
        "METERPROXY_MAIL__PORT": str(box.port),
        "METERPROXY_MAIL__TLS": "none",
        "METERPROXY_MAIL__FROM": "meter@example.com",
    }
    with postgres.reachable_directory() as directory:
        async with service(directory, environment=environment, port=port) as running:
            yield running
            await running.audit()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as running:
        yield running


def visiting(chromium: Browser, open_service: Service, **settings: Any) -> AbstractAsyncContextManager[Visit]:
    return visit(chromium, open_service, **settings)


def operator_password(running: Service) -> str:
    return (running.data_dir / "secrets" / "operator_password").read_text().strip()


async def registered(visit: Visit, name: str) -> str:
    """Register and sign in; the e-mail."""
    email = f"{name}@example.com"
    await visit.open("/register")
    await visit.page.get_by_label("Name").fill(name)
    await visit.page.get_by_label("E-mail").fill(email)
    await visit.page.get_by_label("Password").fill(PASSWORD)
    await visit.press("Register")
    await expect(visit.page.get_by_role("status")).to_have_text("You are registered. Sign in.")
    await visit.sign_in(email, PASSWORD)
    return email


async def granted(running: Service, organization: str, amount: str) -> str:
    """Credit for an organization, by the operator; its account."""
    accounts = await running.admin("GET", "/admin/accounts?limit=500")
    account: str = next(one["id"] for one in accounts["data"] if one["organization"]["name"] == organization)
    body = {"amount": amount, "kind": "grant"}
    await running.admin("POST", f"/admin/accounts/{account}/credits", body, status=201)
    return account


async def asked(running: Service, secret: str, text: str = "Say hello.") -> None:
    async with openai.AsyncOpenAI(base_url=running.base_url, api_key=secret, max_retries=0) as client:
        await client.chat.completions.create(model="gpt-4o-mini", messages=[{"role": "user", "content": text}])


async def test_a_forgotten_password_is_set_by_a_link_that_is_mailed(
    chromium: Browser, open_service: Service, box: Postbox
) -> None:
    """From the page of signing in to the letter and back; whoever was signed in with the old one is out."""
    async with visiting(chromium, open_service) as before, visiting(chromium, open_service) as vera:
        email, page = await registered(before, "vera"), vera.page
        await vera.open("/login")
        await page.get_by_role("link", name="Forgotten your password?").click()
        await page.get_by_label("E-mail").fill(email)
        assert await vera.barriers() == []
        await vera.press("Send the link")
        await expect(page.get_by_role("status")).to_contain_text("is on its way")
        letter = await box.letters.get()
        (link,) = re.findall(r"http\S+", letter.get_content())
        await page.goto(link)
        await page.get_by_label("New password").fill("a new long password")
        await vera.press("Set it")
        await expect(page.get_by_role("status")).to_have_text(
            "Your password was set, and all log-ins have ended; keys go on. Sign in with it."
        )
        assert (await box.letters.get())["Subject"] == "Your password was set anew"
        await vera.sign_in(email, "a new long password")
        await before.open("/keys")
        await expect(before.page.get_by_role("heading", name="Sign in")).to_be_visible()
        await page.goto(link)
        await page.get_by_label("New password").fill("one more long password")
        await vera.press("Set it")
        await expect(page.get_by_role("alert")).to_contain_text("was used")
        vera.trouble.clear()  # the browser tells of the refusal


async def test_from_registering_to_a_statement(chromium: Browser, open_service: Service, tmp_path: Path) -> None:
    """A key, a request that shows without reloading, a budget that stops the next one and says why, files to keep."""
    async with visiting(chromium, open_service) as ann:
        page = ann.page
        await registered(ann, "ann")
        await expect(page.get_by_text("Nothing was asked yet.")).to_be_visible()
        await granted(open_service, "ann", "1.00")

        await ann.open("/keys")
        await page.get_by_label("Name").fill("my first key")
        await ann.press("Create key")
        secret = await page.locator("#secret").inner_text()
        assert secret.startswith("mp-")
        await page.locator("[data-copy=secret]").click()
        await expect(page.locator("[data-copy=secret]")).to_have_text("Copied")
        assert await page.evaluate("navigator.clipboard.readText()") == secret
        assert secret in await page.locator("#python").inner_text()
        await ann.open("/keys")
        assert secret not in await page.content()

        await ann.open("/")
        balance = page.locator("#balance")
        await expect(balance).to_have_text("$1.00")
        await asked(open_service, secret)
        await expect(page.get_by_role("cell", name="my first key")).to_be_visible(timeout=10_000)
        await expect(balance).not_to_have_text("$1.00")

        await ann.open("/budgets")
        await page.get_by_label("Name").fill("almost nothing")
        await page.get_by_label("Cap").fill("0.000000001")
        await ann.press("Make budget")
        await expect(page.get_by_role("heading", name="almost nothing")).to_be_visible()
        with pytest.raises(openai.RateLimitError) as refused:
            await asked_until_refused(open_service, secret)
        assert "almost nothing" in str(refused.value)
        assert "may cost up to $0.0" in str(refused.value)
        await ann.open("/budgets")
        await expect(page.get_by_text("Marks passed")).to_be_visible()
        await told_why(page)
        await ann.open("/")
        await expect(page.get_by_role("heading", name="Refused in the last day")).to_be_visible()
        await expect(page.locator(".ytick text").nth(3)).to_be_attached()
        ticks = await page.locator(".ytick text").all_text_contents()
        assert any(re.fullmatch(r"\$0\.0000\d+", tick) for tick in ticks), ticks

        await ann.open("/activity")
        async with page.expect_download() as downloading:
            await page.get_by_role("link", name="CSV").click()
        rows = list(csv.DictReader(io.StringIO(Path(await (await downloading.value).path()).read_text(), newline="")))
        assert {row["key_name"] for row in rows} == {"my first key"}
        await page.locator("tbody a").first.click()
        await expect(page.get_by_role("heading", name="What it cost")).to_be_visible()

        await ann.open("/reports")
        async with page.expect_download() as downloading:
            await page.get_by_role("link", name="PDF").click()
        pdf = tmp_path / "statement.pdf"
        await (await downloading.value).save_as(pdf)
        assert pdf.read_bytes().startswith(b"%PDF-")


async def told_why(page: Page) -> None:
    """Workers tell what they have refused every few seconds."""
    for _ in range(40):
        if await page.get_by_text("it might have used up to").is_visible():
            return
        await page.wait_for_timeout(250)
        await page.reload()
    raise AssertionError("the page does not say why requests are refused")


async def asked_until_refused(running: Service, secret: str) -> None:
    """What an operator or owner changes is in force within a second."""
    for _ in range(200):
        await asked(running, secret)


async def test_an_operator_at_work(chromium: Browser, open_service: Service) -> None:
    """Grants credit, suspends somebody whose key dies with that, lets him again, and reads who did what."""
    async with visiting(chromium, open_service) as bob:
        await registered(bob, "bob")
        await bob.open("/keys")
        await bob.page.get_by_label("Name").fill("bob's key")
        await bob.press("Create key")
        secret = await bob.page.locator("#secret").inner_text()
        async with visiting(chromium, open_service) as operator:
            page = operator.page
            await operator.sign_in("operator@localhost", operator_password(open_service))
            await operator.open("/operate/organizations")
            await page.get_by_role("link", name="bob").click()
            await page.get_by_label("Amount in USD").fill("2.50")
            await page.get_by_label("Description").fill("welcome")
            await operator.press("Book it")
            await expect(page.get_by_role("status")).to_have_text("The entry was booked.")
            await expect(page.get_by_role("cell", name="welcome")).to_be_visible()
            await asked(open_service, secret)

            await operator.open("/operate/people?q=bob")
            await operator.press("Suspend")
            await expect(page.get_by_role("status")).to_contain_text("suspended")
            with pytest.raises(openai.AuthenticationError):
                await asked_until_refused(open_service, secret)
            await bob.open("/")
            assert bob.page.url.startswith(f"{open_service.origin}/login")

            await operator.open("/operate/people?q=bob")
            await operator.press("Resume")
            await operator.open("/operate/audit")
            for action in ("credit.grant", "user.suspend", "user.resume"):
                await expect(page.get_by_role("cell", name=action).first).to_be_visible()
            await operator.open("/operate/system?audit=1")
            await expect(page.get_by_text("balance is the sum of its entries")).to_be_visible()
            await expect(page.get_by_text("broken")).to_have_count(0)


async def test_credit_is_bought(chromium: Browser, open_service: Service) -> None:
    """Ordered, paid under its code, confirmed by an operator, spent; and told, like the credit that runs low again."""
    async with visiting(chromium, open_service) as fay, visiting(chromium, open_service) as operator:
        page = fay.page
        await registered(fay, "fay")
        await fay.open("/credits")
        await page.get_by_label("Amount in USD").fill("5")
        await page.get_by_label("Your reference").fill("PO 4711")
        await fay.press("Order credit")
        await expect(page.get_by_role("status")).to_contain_text("ordered")
        code = await page.locator("p.secret code").inner_text()
        assert await fay.barriers() == []
        await page.get_by_label("Warn below").fill("5")
        await fay.press("Set")

        seen = operator.page
        await operator.sign_in("operator@localhost", operator_password(open_service))
        await seen.get_by_role("link", name="Purchases").click()
        await seen.get_by_label("Code on the transfer").fill(code.lower().replace("-", " "))
        await operator.press("Show")
        await expect(seen.get_by_role("heading", name="$5.00 for fay")).to_be_visible()
        assert await operator.barriers() == []
        seen.on("dialog", lambda dialog: dialog.accept())
        await operator.press("Confirm")
        await expect(seen.get_by_role("cell", name=code)).to_be_visible()

        await fay.open("/keys")
        await page.get_by_label("Name").fill("fay's key")
        await fay.press("Create key")
        await asked(open_service, await page.locator("#secret").inner_text())
        await fay.open("/credits")
        await expect(page.get_by_role("row", name="PO 4711").first).to_contain_text("confirmed")
        await until_told(fay, "Credit is low")
        await expect(page.get_by_role("link", name="$5.00 of credit was added")).to_be_visible()
        assert await fay.barriers() == []
        await fay.press("Mark all as read")
        await expect(page.get_by_role("button", name="Mark as read")).to_have_count(0)
        await expect(page.locator(".bell .count")).to_have_count(0)


async def until_told(visit: Visit, title: str) -> None:
    """What was settled is looked at once a second."""
    for _ in range(200):
        await visit.open("/notifications")
        if await visit.page.get_by_role("link", name=title).count():
            return
    raise AssertionError(f"nobody was told: {title}")


async def test_an_operator_adds_a_provider_and_rotates_its_key(chromium: Browser, open_service: Service) -> None:
    """A key that the provider refuses is not kept, and says so; of one that it takes the last four letters are shown."""
    async with simulator(SimulatorSettings(key="sk-the-right-one-1234")) as second:
        async with visiting(chromium, open_service) as operator:
            page = operator.page
            await operator.sign_in("operator@localhost", operator_password(open_service))
            await operator.open("/operate/providers")
            await page.get_by_label("Name", exact=True).fill("second")
            await page.get_by_label("Address").fill(second)
            await page.get_by_text("Headers, TLS, patience").click()
            await page.locator("#headers-new").fill("X-Team: blue-secret")
            await page.locator("#first_byte_seconds-new").fill("42.5")
            assert await operator.barriers() == []
            await operator.press("Add provider")
            await expect(page.get_by_text("the first byte 42.5 s")).to_be_visible()
            assert "blue-secret" not in await page.content()
            await page.get_by_text("Change second").click()
            await page.get_by_label(re.compile("^Headers")).first.fill("X-Other: a\nX-Team")
            await page.get_by_label("the first byte").first.fill("")
            await operator.press("Save")
            await expect(page.get_by_role("alert")).to_contain_text("Line 2 must be written as")
            operator.trouble.clear()  # the browser tells of the refusal
            await expect(page.get_by_label("the first byte").first).to_have_value("")
            await page.get_by_label(re.compile("^Headers")).first.fill("X-Other: a\nX-Team:")
            await operator.press("Save")
            await expect(page.get_by_text("the first byte 42.5 s")).to_be_visible()
            await expect(page.get_by_text("X-Other", exact=True)).to_be_visible()
            await page.get_by_label("Secret").fill("sk-the-right-one-1234")
            await operator.press("Add key")
            await expect(page.get_by_role("status")).to_contain_text("takes the key")
            await expect(page.get_by_text("…1234", exact=True)).to_be_visible()
            assert "sk-the-right" not in await page.content()
            assert await operator.barriers() == []
            await page.get_by_label("New secret of the key …1234").fill("sk-the-right-one-1234")
            await operator.press("Rotate")
            await expect(page.get_by_role("status")).to_contain_text("takes the key")
            await page.get_by_label("Secret", exact=True).fill("sk-of-another-day-5678")
            await page.get_by_label("keep it without asking").check()
            await operator.press("Add key")
            await expect(page.get_by_role("status")).to_contain_text("without asking the provider")
            await operator.open("/operate/audit?action=provider_key.rotate")
            await expect(page.get_by_role("cell", name="provider_key.rotate")).to_be_visible()


async def test_a_colleague_is_invited_and_chats(chromium: Browser, open_service: Service) -> None:
    """By a link that works once; he chats on the organization's credit and sees what it cost, and only what is his."""
    async with visiting(chromium, open_service) as cleo:
        await registered(cleo, "cleo")
        await granted(open_service, "cleo", "1.00")
        await cleo.open("/members")
        await cleo.page.get_by_label("E-mail").fill("dan@example.com")
        await cleo.press("Invite")
        link = await cleo.page.locator("#invitation").inner_text()
        async with visiting(chromium, open_service) as dan:
            page = dan.page
            await registered(dan, "dan")
            await page.goto(link)
            await dan.press("Join")
            await expect(page.get_by_role("heading", name="cleo")).to_be_visible()
            await expect(page.get_by_role("link", name="Members")).to_have_count(0)
            await dan.open("/chat")
            await page.get_by_label("Model").select_option("gpt-4o-mini")
            await page.get_by_label("Message").fill("Tell me a story.")
            await page.get_by_label("Message").press("Enter")
            await expect(page.locator(".message.assistant footer")).to_contain_text("$0.", timeout=15_000)
            await expect(page.locator("#total")).to_contain_text("This conversation: $0.")
            await dan.open("/activity")
            await expect(page.get_by_role("cell", name="chat", exact=True)).to_have_count(1)
        await cleo.open("/members")
        await expect(cleo.page.get_by_role("row", name="dan")).to_contain_text("$0.0")


async def test_with_the_keyboard_alone(chromium: Browser, open_service: Service) -> None:
    """Registering, signing in, past the menu, and making a key."""
    async with visiting(chromium, open_service) as eve:
        page = eve.page
        keyboard = page.keyboard
        await eve.open("/register")
        await page.keyboard.press("Tab")
        await expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        for text in ("eve", "eve@example.com", PASSWORD):
            await keyboard.press("Tab")
            await keyboard.type(text)
        await keyboard.press("Enter")
        await expect(page.get_by_role("status")).to_be_visible()
        await expect(page.get_by_label("E-mail")).to_be_focused()
        await keyboard.type("eve@example.com")
        await keyboard.press("Tab")
        await keyboard.type(PASSWORD)
        await keyboard.press("Enter")
        await page.wait_for_url(f"{open_service.origin}/")
        link = page.get_by_role("link", name="API keys", exact=True)
        for _ in range(20):
            await keyboard.press("Tab")
            if await link.evaluate("link => link === document.activeElement"):
                break
        await keyboard.press("Enter")
        await page.wait_for_url(f"{open_service.origin}/keys")
        await keyboard.press("Tab")
        await keyboard.press("Enter")  # skips to the content
        await keyboard.press("Tab")
        await expect(page.get_by_label("Name")).to_be_focused()
        await keyboard.type("by hand")
        await keyboard.press("Enter")
        await expect(page.locator("#secret")).to_contain_text("mp-")


PAGES = (
    "/", "/activity", "/credits", "/keys", "/budgets", "/chat", "/reports", "/reports?group_by=model", "/prices",
    "/members", "/profile", "/operate/organizations", "/operate/people", "/operate/purchases", "/notifications", "/docs", "/operate/providers", "/operate/system", "/operate/audit",
)  # fmt: skip


@pytest.mark.parametrize(("width", "schemes"), [(360, ("dark", "light")), (1440, ("light", "dark"))])
async def test_every_page_lets_everybody_in(
    chromium: Browser, open_service: Service, width: int, schemes: tuple[str, ...]
) -> None:
    """No barriers, nothing beyond the window's edge, no errors, whatever the window and the colours."""
    first, *others = schemes
    async with visiting(chromium, open_service, viewport={"width": width, "height": 800}) as operator:

        async def barriers(path: str) -> list[str]:
            await operator.page.emulate_media(color_scheme=first)
            await operator.open(path)
            found = await operator.barriers()
            beyond = await operator.page.evaluate("document.documentElement.scrollWidth - innerWidth")
            if beyond > 0:
                found.append(f"goes {beyond} pixels beyond the edge")
            for other in others if path != "/docs" else ():  # whose colours are looked at where it is opened
                await operator.page.emulate_media(color_scheme=other)
                found += await operator.barriers(OF_COLOURS)
            return [f"{path} {barrier}" for barrier in found]

        found = await barriers("/login")
        await operator.sign_in("operator@localhost", operator_password(open_service))
        for path in PAGES:
            found += await barriers(path)
        assert found == []


async def test_operations_that_are_opened_let_everybody_in(chromium: Browser, open_service: Service) -> None:
    """In the viewer of the API's document: what stands in them has names, contrast, and a way in by keyboard."""
    async with visiting(chromium, open_service, viewport={"width": 360, "height": 800}) as anybody:
        page = anybody.page
        await anybody.open("/docs")
        await page.locator(".opblock-tag").first.wait_for()
        for tag in (await page.locator(".opblock-tag .expand-operation").all())[::9]:
            await tag.click()
        operations = (await page.locator(".opblock-summary-control").all())[::24]
        for operation in operations:
            await operation.click()
        await expect(page.locator(".opblock.is-open")).to_have_count(len(operations))
        for number in range(2):
            await page.locator(".try-out__btn:not(.cancel, .reset)").first.click()
            await expect(page.locator(".btn.execute")).to_have_count(number + 1)
        await expect(page.locator("#docs :is(select, textarea):not([aria-label])")).to_have_count(0)
        await page.emulate_media(color_scheme="light")
        found = await anybody.barriers()
        await page.emulate_media(color_scheme="dark")
        found += await anybody.barriers(OF_COLOURS)
        assert found == []
        assert await page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0
        its_own = "Could not find component: JsonSchema_string_"  # it takes the one for any text
        anybody.trouble = [told for told in anybody.trouble if its_own not in told]


async def test_pages_are_read_without_javascript(chromium: Browser, open_service: Service) -> None:
    """Signing in and every figure need none."""
    async with visiting(chromium, open_service, java_script_enabled=False) as operator:
        await operator.sign_in("operator@localhost", operator_password(open_service))
        for path in PAGES:
            await operator.open(path)
            await expect(operator.page.get_by_role("heading", level=1)).to_be_visible()
