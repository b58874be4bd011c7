"""PostgreSQL goes away under people who look at pages: they are told so in our words, and go on when it is back."""

import re
from pathlib import Path

import aiohttp

from meterproxy.dashboard.routes import PAGES
from meterproxy.runtime.embedded import EmbeddedPostgres
from tests.service.running import Service, service, until_asked

PASSWORD = "correct horse battery"
SAID = "The database is not available right now."
INSIDE = re.compile(
    r"Traceback|File \"|asyncpg|StoreUnavailable|ConnectionRefused|PostgreSQL is not available|/meterproxy/"
)
"""What is nobody's business who looks at a page."""


async def test_pages_say_that_the_database_is_away_and_go_on_when_it_is_back(
    reachable_dir: Path, own_postgres: EmbeddedPostgres
) -> None:
    """Every page and form: a 503 that is a page of ours, twice over, and nothing of it when all is well again."""
    environment = {"METERPROXY_DATABASE_URL": own_postgres.dsn, "METERPROXY_REGISTRATION": "open"}
    (reachable_dir / "host").mkdir()
    async with service(reachable_dir / "host", environment=environment) as running:
        async with aiohttp.ClientSession(running.origin, cookie_jar=aiohttp.CookieJar(unsafe=True)) as browser:
            csrf = await signed_in(running, browser)
            pages = [route for route in PAGES if not route.is_file and "{" not in route.path and route.path != "/live"]
            for _ in range(2):
                await own_postgres.stop()
                for route in pages:
                    form = {"csrf": csrf, "email": "ann@example.com", "password": PASSWORD, "name": "x"}
                    given = {"data": form} if route.method == "POST" else {}
                    async with browser.request(route.method, route.path, allow_redirects=False, **given) as answer:
                        text = await answer.text()
                    where = f"{route.method} {route.path}"
                    assert answer.status == 503, (where, answer.status, text[:500])
                    assert answer.content_type == "text/html", where
                    assert SAID in text, where
                    assert "<h1>Service Unavailable</h1>" in text, where
                    assert "Content-Security-Policy" in answer.headers, where
                    assert not INSIDE.search(text), where
                async with aiohttp.ClientSession(running.origin) as stranger, stranger.get("/login") as answer:
                    assert answer.status == 200, "of whom there is nothing to look up"
                async with browser.get("/api/auth/me") as answer:
                    assert (answer.status, (await answer.json())["error"]["message"]) == (503, SAID)
                await own_postgres.start()

                async def is_back() -> bool:
                    async with browser.get("/") as answer:
                        return answer.status == 200 and "Ann" in await answer.text()

                await until_asked(is_back, "the overview")
            async with browser.post("/keys", data={"csrf": csrf, "name": "laptop"}) as answer:
                assert (answer.status, "mp-" in await answer.text()) == (200, True)
        assert "Traceback" not in running.whole_log()


async def signed_in(running: Service, browser: aiohttp.ClientSession) -> str:
    """Register and sign in by the pages; answers what their forms carry."""
    person = {"username": "Ann", "email": "ann@example.com", "password": PASSWORD}
    async with browser.post("/api/auth/register", json=person) as answer:
        assert answer.status == 201, await answer.text()
    async with browser.post("/login", data={"email": person["email"], "password": PASSWORD}) as answer:
        assert answer.status == 200, running.log_text()
    async with browser.get("/keys") as answer:
        found = re.search(r'name="csrf" value="([^"]+)"', await answer.text())
    assert found is not None
    return found[1]
