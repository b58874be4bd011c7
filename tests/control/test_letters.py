"""Letters that people get: how to set a forgotten password, and invitations; with a real mail server."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from email.message import EmailMessage

import pytest

from meterproxy.config import MailTerms
from meterproxy.control.mailer import Mailer
from meterproxy.control.sign_in import (
    FREE_INVITATIONS,
    FREE_INVITATIONS_TO_ONE,
    LONGEST_PAUSE_SECONDS,
    MOST_MAILED_RESETS,
)
from meterproxy.core.role import Role
from meterproxy.errors import Case
from meterproxy.store.people import FREE_FAILURES
from tests.control.asking import PASSWORD, Asking, Heard
from tests.control.postbox import Postbox, postbox
from tests.ledger.bank import pool_of

URL = "https://meter.example"
NEW = "another long password"


@dataclass
class Post:
    """An API that sends letters, how those end, and where they arrive."""

    asking: Asking
    box: Postbox
    ends: asyncio.Queue[str]

    async def forgot(self, email: str) -> Heard:
        return await self.asking("POST", "/api/auth/forgot", {"email": email})

    async def letter(self) -> EmailMessage:
        async with asyncio.timeout(30):
            return await self.box.letters.get()

    async def nothing_came(self) -> None:
        """Whoever was asked about before got nothing: somebody asked about after them has his letter."""
        await self.asking.person("last")
        assert (await self.forgot("last@example.com")).status == 204
        assert (await self.letter())["To"] == "last@example.com"
        assert self.box.letters.empty()


@pytest.fixture
async def post(database: str) -> AsyncIterator[Post]:
    async with pool_of(database) as pool, postbox() as box:
        terms = {"host": "127.0.0.1", "port": box.port, "tls": "none", "from": "meter@example.com"}
        ends: asyncio.Queue[str] = asyncio.Queue()
        mailer = Mailer(MailTerms.model_validate(terms), URL, ends.put_nowait)
        sending = asyncio.create_task(mailer.keep_sent())
        yield Post(Asking(pool, mailer=mailer), box, ends)
        sending.cancel()
        await asyncio.wait((sending,))


def token_in(letter: EmailMessage) -> str:
    (found,) = re.findall(rf"{URL}/reset\?token=([\w-]+)\s", letter.get_content())
    return str(found)


async def test_a_forgotten_password_is_set_by_the_link_that_was_mailed(post: Post) -> None:
    """Once; every log-in there was is over, and the audit log knows."""
    person = await post.asking.person("ann")
    assert (await post.forgot("ANN@example.com")).status == 204
    letter = await post.letter()
    assert (letter["To"], letter["Subject"]) == ("ann@example.com", "Set your password")
    given = {"reset_token": token_in(letter), "new_password": NEW}
    assert (await post.asking("POST", "/api/auth/reset", given)).status == 204
    assert (await post.asking("POST", "/api/auth/reset", given)).case is Case.NOT_SIGNED_IN
    assert (await post.asking("GET", "/api/auth/me", token=person.token)).case is Case.NOT_SIGNED_IN
    old = await post.asking("POST", "/api/auth/login", {"email": person.email, "password": PASSWORD})
    assert old.case is Case.WRONG_PASSWORD
    assert (await post.asking("POST", "/api/auth/login", {"email": person.email, "password": NEW})).status == 200
    rows = await post.asking.pool.fetch("SELECT actor, action FROM audit_log WHERE action LIKE 'user.%' ORDER BY id")
    assert [tuple(row) for row in rows][-2:] == [("mail", "user.reset"), (f"user {person.id}", "user.password")]


async def test_somebody_is_told_that_his_password_was_set_anew(post: Post) -> None:
    """By himself or by a link, to the address that he has; of many changes not of each, and where none can go, of none."""
    person = await post.asking.person("ann")
    other = {"old_password": PASSWORD, "new_password": NEW}
    assert (await post.asking("POST", "/api/auth/password", other, token=person.token)).status == 204
    told = await post.letter()
    assert (told["To"], told["Subject"]) == (person.email, "Your password was set anew")
    assert f"{URL}/forgot" in told.get_content()
    for number in range(FREE_FAILURES + 1):
        same = {"old_password": NEW, "new_password": NEW}
        assert (await post.asking("POST", "/api/auth/password", same, token=person.token)).status == 204
        if number < FREE_FAILURES:
            assert (await post.letter())["To"] == person.email
    for address in ("operator@localhost", None):
        await post.asking.pool.execute("UPDATE users SET email = $2 WHERE id = $1", person.id, address)
        assert (await post.asking("POST", "/api/auth/password", same, token=person.token)).status == 204
    await post.nothing_came()


async def test_the_link_is_good_for_an_hour(post: Post) -> None:
    """And only its digest is kept."""
    await post.asking.person("ann")
    await post.forgot("ann@example.com")
    token = token_in(await post.letter())
    row = await post.asking.pool.fetchrow("SELECT digest, expires_at - created_at AS good_for FROM password_resets")
    assert row is not None
    assert row["good_for"] == timedelta(hours=1)
    assert token.encode() not in row["digest"]
    await post.asking.pool.execute("UPDATE password_resets SET expires_at = now()")
    late = await post.asking("POST", "/api/auth/reset", {"reset_token": token, "new_password": NEW})
    assert late.case is Case.NOT_SIGNED_IN


async def test_nobody_learns_who_has_an_account(post: Post) -> None:
    """Unknown, suspended, or without a password: the same answer, and no letter."""
    suspended, elsewhere = await post.asking.person("sue"), await post.asking.person("olaf")
    await post.asking.people.suspend(suspended.id, suspended=True)
    await post.asking.pool.execute("UPDATE users SET password_hash = NULL WHERE id = $1", elsewhere.id)
    for email in ("nobody@example.com", suspended.email, elsewhere.email):
        heard = await post.forgot(email)
        assert (heard.status, heard.body) == (204, b"")
    await post.nothing_came()


async def test_an_operator_who_was_made_by_the_first_start_gets_no_letter(post: Post) -> None:
    """`operator@localhost` is somebody at each mail server, who would be the operator here."""
    hashed = await post.asking.passwords.hash(PASSWORD)
    await post.asking.people.make_operator("operator", "operator@localhost", hashed, "demo")
    assert (await post.forgot("operator@localhost")).status == 204
    await post.nothing_came()
    assert await post.asking.pool.fetchval("SELECT count(*) FROM password_resets") == 1, "of the one who asked last"


async def test_who_has_links_that_work_is_sent_no_more_of_them(post: Post) -> None:
    """Whoever asks for him; one that was used, or is over, makes room for another."""
    person = await post.asking.person("ann")
    for _ in range(MOST_MAILED_RESETS):
        await post.forgot(person.email)
        token = token_in(await post.letter())
    assert (await post.forgot(person.email)).status == 204
    await post.nothing_came()
    await post.asking.pool.execute("UPDATE password_resets SET expires_at = now() WHERE digest <> sha256($1)",
                                   token.encode())  # fmt: skip
    await post.forgot(person.email)
    assert (await post.letter())["To"] == person.email


async def test_a_letter_that_could_not_be_sent_counts_for_nothing(post: Post) -> None:
    """Whoever asks again once the mail server is well is sent one; the link that nobody got works for nobody."""
    person = await post.asking.person("ann")
    post.box.replies = ["550 no"] * MOST_MAILED_RESETS
    for _ in range(MOST_MAILED_RESETS):
        await post.forgot(person.email)
        assert await post.ends.get() == "failed"
    await post.forgot(person.email)
    assert (await post.letter())["To"] == person.email
    live = "SELECT count(*) FROM password_resets WHERE used_at IS NULL"
    assert await post.asking.pool.fetchval(live) == 1


async def test_two_letters_to_one_person_at_once_are_counted_as_two(post: Post) -> None:
    """However many workers write them."""
    person = await post.asking.person("ann")
    people = post.asking.people
    made = await asyncio.gather(
        *(people.add_mailed_reset(person.email, bytes([number]) * 32, 60, 3) for number in range(8))
    )
    assert sorted(str(one) for one in made) == ["None"] * 5 + [person.email] * 3


async def test_the_letter_goes_to_the_address_that_is_known(post: Post) -> None:
    """Not to one that PostgreSQL takes for the same."""
    await post.asking.person("kim")
    await post.forgot("KIM@EXAMPLE.COM")
    assert (await post.letter())["To"] == "kim@example.com"
    assert post.box.recipients == ["kim@example.com"]


async def test_letters_are_asked_for_ever_more_slowly(post: Post) -> None:
    """For whomever they are, known or not; signing in goes on meanwhile."""
    person = await post.asking.person("ann")
    for email in (person.email, "nobody@example.com"):
        statuses = [(await post.forgot(email)).status for _ in range(FREE_FAILURES + 2)]
        assert statuses == [204] * (FREE_FAILURES + 1) + [429]
        slowed = await post.forgot(email)
        assert slowed.case is Case.SIGN_IN_SLOWED
        assert "Retry-After" in slowed.headers
    signed = await post.asking("POST", "/api/auth/login", {"email": person.email, "password": PASSWORD})
    assert signed.status == 200


async def test_without_a_mail_server_there_is_no_such_thing(database: str) -> None:
    """And the page of signing in names the operator instead."""
    async with pool_of(database) as pool:
        asking = Asking(pool)
        refused = await asking("POST", "/api/auth/forgot", {"email": "ann@example.com"})
        assert refused.case is Case.NOT_FOUND
        assert (await asking("GET", "/forgot")).status == 404
        page = (await asking("GET", "/login")).body.decode()
        assert "/forgot" not in page
        assert "Ask your operator for a link" in page


async def test_the_page_says_the_same_to_everybody(post: Post) -> None:
    """It leads back to signing in; an address that is none is told so, and stays in the form."""
    assert '<a href="/forgot">' in (await post.asking("GET", "/login")).body.decode()
    form = {"Content-Type": "application/x-www-form-urlencoded", "Sec-Fetch-Site": "same-origin"}
    sent = await post.asking("POST", "/forgot", b"email=nobody%40example.com", headers=form)
    assert (sent.status, sent.headers["Location"]) == (303, "/login?done=forgotten")
    assert "is on its way" in (await post.asking("GET", "/login?done=forgotten")).body.decode()
    wrong = await post.asking("POST", "/forgot", b"email=%3Cb%3Enobody", headers=form)
    assert wrong.status == 400
    assert 'value="&lt;b&gt;nobody"' in wrong.body.decode()


async def test_an_invitation_is_mailed(post: Post) -> None:
    """With a link for who has an account and one for who has none; both work."""
    owner, guest = await post.asking.person("owner"), await post.asking.person("guest")
    path = f"/api/organizations/{owner.organization_id}/invitations"
    made = await post.asking("POST", path, {"email": guest.email, "role": "member"}, token=owner.token)
    assert (made.status, made.body["mailed"]) == (201, True)
    letter = await post.letter()
    assert letter["To"] == guest.email
    links = re.findall(rf"{URL}/(\w+)\?token=([\w-]+)", letter.get_content())
    assert links == [("invitation", made.body["invitation_token"]), ("register", made.body["invitation_token"])]
    joined = await post.asking("POST", "/api/invitations/accept", {"invitation_token": links[0][1]}, token=guest.token)
    assert joined.body["organization_id"] == str(owner.organization_id)


async def test_an_organizations_name_is_one_line_in_the_text(post: Post) -> None:
    """Whoever may register can invite: his organization's name is in no header."""
    owner = await post.asking.person("owner")
    path = f"/api/organizations/{owner.organization_id}"
    renamed = await post.asking("PATCH", path, {"name": "Acme\nBcc: eve"}, token=owner.token)
    assert renamed.status == 200
    await post.asking("POST", f"{path}/invitations", {"email": "g@example.com", "role": "viewer"}, token=owner.token)
    letter = await post.letter()
    assert letter["Subject"] == "You are invited to an organization"
    assert 'the organization "Acme Bcc: eve".' in letter.get_content()
    assert post.box.recipients == ["g@example.com"]


async def test_who_invites_very_many_mails_only_some_of_them(post: Post) -> None:
    """The others are invited too, by the link that the answer has."""
    owner = await post.asking.person("owner")
    path = f"/api/organizations/{owner.organization_id}/invitations"
    mailed = []
    for number in range(FREE_INVITATIONS + 3):
        body = {"email": f"g{number}@example.com", "role": Role.VIEWER.value}
        made = await post.asking("POST", path, body, token=owner.token)
        assert made.status == 201
        mailed.append(made.body["mailed"])
    assert mailed == [True] * (FREE_INVITATIONS + 1) + [False] * 2


async def test_nobody_is_invited_by_mail_again_and_again(post: Post) -> None:
    """Not by many organizations either: they have their links, and he his peace."""
    mailed = []
    for number in range(FREE_INVITATIONS_TO_ONE + 3):
        owner = await post.asking.person(f"owner{number}")
        path = f"/api/organizations/{owner.organization_id}/invitations"
        made = await post.asking("POST", path, {"email": f"{'Gg'[number % 2]}uest@example.com"}, token=owner.token)
        assert made.status == 201
        mailed.append(made.body["mailed"])
    assert mailed == [True] * (FREE_INVITATIONS_TO_ONE + 1) + [False] * 2
    seconds = "SELECT round(max(extract(epoch FROM blocked_until - failed_at))) FROM failed_logins"
    await post.asking.pool.execute("UPDATE failed_logins SET failures = 40, blocked_until = now()")
    await post.asking("POST", path, {"email": "guest@example.com"}, token=owner.token)
    assert await post.asking.pool.fetchval(seconds) == LONGEST_PAUSE_SECONDS


@pytest.mark.parametrize("email", ["operator@localhost", "<guest@example.com", "guest(x)@example.com"])
async def test_who_cannot_be_mailed_is_invited_by_link_alone(post: Post, email: str) -> None:
    """And whoever invites is told so."""
    owner = await post.asking.person("owner")
    path = f"/api/organizations/{owner.organization_id}/invitations"
    made = await post.asking("POST", path, {"email": email}, token=owner.token)
    assert (made.status, made.body["mailed"]) == (201, False)


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("Acme, Inc.", 'the organization "Acme, Inc.".'),
        ("M\u00fcller & S\u00f6hne", 'the organization "M\u00fcller & S\u00f6hne".'),
        ('Acme". Your account is locked: https://evil.example', "an organization."),
        ("Call evil.example/login now", "an organization."),
        ("Write to eve@evil", "an organization."),
        ("evil\u3002example", "an organization."),
        ("We have locked your account until you have told us your password by telephone", "an organization."),
    ],
)
async def test_an_organizations_name_is_no_message(post: Post, name: str, told: str) -> None:
    """Nobody has this service send his own words, or a link of his, to strangers."""
    owner = await post.asking.person("owner")
    path = f"/api/organizations/{owner.organization_id}"
    assert (await post.asking("PATCH", path, {"name": name}, token=owner.token)).status == 200
    await post.asking("POST", f"{path}/invitations", {"email": "g@example.com"}, token=owner.token)
    text = (await post.letter()).get_content()
    assert f"You are invited to join {told}\n" in text.replace("\r\n", "\n")
    assert text.count("//") == text.count(URL)
