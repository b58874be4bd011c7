"""The mailer, with a real mail server: letters arrive whole, are tried again, or are told to have failed."""

import asyncio
import logging
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest

from bench.certificates import Certificates, make_certificates
from meterproxy.config import MailTerms
from meterproxy.control import mailer as module
from meterproxy.control.mailer import MOST_WAITING, SENDERS, Mailer
from meterproxy.errors import StoreUnavailable
from tests.control.postbox import PASSWORD, USER, Postbox, postbox, serving

TO = "ann@example.com"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = make_certificates(tmp_path_factory.mktemp("certificates"))
    assert made is not None
    return made


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES_SECONDS", (0.0, 0.0))


class Silent(asyncio.Protocol):
    """A server that takes connections and says nothing."""


class Scripted(asyncio.Protocol):
    """A server that says one thing when it is called, and one after each word that it hears; None: it hangs up."""

    def __init__(self, talk: Mapping[bytes, bytes | None], heard: bytearray) -> None:
        self._talk = talk
        self._heard = heard

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._say(b"")

    def data_received(self, data: bytes) -> None:
        self._heard += data
        for word in self._talk:
            if word and data.startswith(word):
                self._say(word)

    def _say(self, word: bytes) -> None:
        answer = self._talk[word]
        if answer is None:
            self._transport.abort()
        else:
            self._transport.write(answer)


class Ends:
    """How letters end, told as they do."""

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self._next: asyncio.Queue[str] = asyncio.Queue()

    def __call__(self, outcome: str) -> None:
        self.outcomes[outcome] += 1
        self._next.put_nowait(outcome)

    async def one(self) -> str:
        async with asyncio.timeout(30):
            return await self._next.get()


@asynccontextmanager
async def mailing(port: int, ends: Ends, **terms: Any) -> AsyncIterator[Mailer]:
    given = {"host": "127.0.0.1", "port": port, "tls": "none", "from": "Meter <meter@example.com>", **terms}
    mailer = Mailer(MailTerms.model_validate(given), "https://meter.example/", ends)
    sending = asyncio.create_task(mailer.keep_sent())
    try:
        yield mailer
    finally:
        sending.cancel()
        await asyncio.wait((sending,))


def hello(mailer: Mailer, to: str = TO) -> Any:
    async def write() -> EmailMessage:
        return mailer.letter(to, "Hello\u202e\r\nBcc: eve@example.com", "Grüße\n.\nund \u202eein\u2066 Punkt\n")

    return write


async def test_a_letter_arrives_as_it_was_written() -> None:
    """One recipient, one subject whatever is in it, and every line of the text."""
    ends = Ends()
    async with postbox() as box, mailing(box.port, ends) as mailer:
        assert mailer.post(hello(mailer))
        letter = await box.letters.get()
        assert await ends.one() == "sent"
    assert box.recipients == [TO]
    assert (letter["From"], letter["To"]) == ("Meter <meter@example.com>", TO)
    assert letter["Subject"] == "Hello Bcc: eve@example.com"
    assert letter["Bcc"] is None
    assert letter["Auto-Submitted"] == "auto-generated"
    assert letter.get_content().splitlines() == ["Grüße", ".", "und ein Punkt"]


@pytest.mark.parametrize("tls", ["starttls", "tls"])
async def test_who_sends_says_who_he_is_and_nobody_listens(certificates: Certificates, tls: str) -> None:
    """By either kind of TLS, with an authority of one's own, and a name and password."""
    ends = Ends()
    terms = {"tls": tls, "tls_ca_file": certificates.authority, "user": USER, "password": PASSWORD}
    async with postbox(certificates, tls, asks_who=True) as box, mailing(box.port, ends, **terms) as mailer:
        mailer.post(hello(mailer))
        assert await ends.one() == "sent"
    assert box.secure == [True]


@pytest.mark.parametrize(
    ("tls", "changed", "reason"),
    [
        ("tls", {"tls_ca_file": None}, "certificate verify failed"),
        ("starttls", {"tls_ca_file": None}, "SSLCertVerificationError"),
        ("starttls", {"password": "wrong"}, "SMTPAuthenticationError (535)"),
        ("tls", {"tls": "starttls", "timeout_seconds": 0.2}, "Timed out"),
    ],
    ids=["untrusted", "untrusted-starttls", "password", "another-tls"],
)
async def test_where_a_server_is_not_what_it_should_be_nothing_is_given_to_it(
    certificates: Certificates, tls: str, changed: Mapping[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An authority that nobody trusts, a password that it does not know, the other kind of TLS: the letter fails."""
    ends = Ends()
    terms = {"tls": tls, "tls_ca_file": certificates.authority, "user": USER, "password": PASSWORD, **changed}
    async with postbox(certificates, tls, asks_who=True) as box, mailing(box.port, ends, **terms) as mailer:
        mailer.post(hello(mailer))
        assert await ends.one() == "failed"
    assert box.attempts == 0
    assert TO not in caplog.text
    (told,) = (line for line in caplog.messages if line.startswith("a letter could not be sent: "))
    assert reason in told


async def test_a_server_that_cannot_offer_tls_gets_no_letter() -> None:
    """`starttls` is a demand."""
    ends = Ends()
    async with postbox() as box, mailing(box.port, ends, tls="starttls") as mailer:
        mailer.post(hello(mailer))
        assert await ends.one() == "failed"
    assert box.attempts == 0


@pytest.mark.parametrize(
    ("replies", "outcome", "attempts"),
    [
        (["451 later"], "sent", 2),
        (["451 later", "421 later"], "sent", 3),
        (["451 later"] * 3, "failed", 3),
        (["550 no such person ann@example.com"], "failed", 1),
    ],
    ids=["once", "twice", "always", "for good"],
)
async def test_what_is_refused_for_now_is_tried_again(
    replies: list[str], outcome: str, attempts: int, caplog: pytest.LogCaptureFixture
) -> None:
    """So often, and not where the refusal is for good; the log names nobody."""
    ends = Ends()
    async with postbox() as box, mailing(box.port, ends) as mailer:
        box.replies = list(replies)
        mailer.post(hello(mailer))
        assert await ends.one() == outcome
    assert box.attempts == attempts
    assert TO not in caplog.text


async def test_a_server_that_says_nothing_keeps_nobody_for_ever() -> None:
    """The letter fails, and the next ones have their turns."""
    ends = Ends()
    async with serving(Silent) as silent, mailing(silent, ends, timeout_seconds=0.05) as mailer:
        for _ in range(6):
            mailer.post(hello(mailer))
        assert [await ends.one() for _ in range(6)] == ["failed"] * 6


@pytest.mark.parametrize(
    "talk",
    [
        {b"": b"220 " + b"x" * 100_000},
        {b"": b"220-x\r\n" * 10_000},
        {b"": b"\x00\xff\r\n"},
        {b"": b"220 hello\r\n", b"EHLO": b"250-hello\r\n250 " + b"y" * 100_000 + b"\r\n"},
        {b"": b"220 hello\r\n", b"EHLO": b"250 hello\r\n", b"MAIL": b"250 yes\r\n", b"RCPT": b"wait, \xff\r\n"},
        {b"": b"220 hello\r\n", b"EHLO": b"250 hello\r\n", b"MAIL": b"250 yes\r\n", b"RCPT": b"250 yes\r\n",
         b"DATA": b"354 go on\r\n", b"From": None},
        {b"": b"220 hello\r\n", b"EHLO": b"250 hello\r\n", b"MAIL": b"250 yes\r\n", b"RCPT": None},
    ],
    ids=["endless line", "endless lines", "noise", "huge answer", "no answer", "gone in the middle", "gone before"],
)  # fmt: skip
async def test_a_server_that_says_odd_things_costs_one_letter(
    talk: Mapping[bytes, bytes | None], caplog: pytest.LogCaptureFixture
) -> None:
    """What it says is bounded and told to nobody; the next letter has its turn."""
    ends, heard = Ends(), bytearray()
    async with serving(lambda: Scripted(talk, heard)) as port, mailing(port, ends, timeout_seconds=1) as mailer:
        mailer.post(hello(mailer))
        mailer.post(hello(mailer))
        assert [await ends.one() for _ in range(2)] == ["failed"] * 2
    assert TO not in caplog.text
    assert all(len(message) < 200 for message in caplog.messages)


@pytest.mark.parametrize(
    ("greeting", "end", "undone"),
    [(b"220 hello\r\n", b"550 no\r\n", True), (b"554 no\r\n", None, True), (None, None, True),
     (b"220 hello\r\n", None, False), (b"220 hello\r\n", b"", False)],
    ids=["refused", "never asked", "never greeted", "gone", "silent"],
)  # fmt: skip
async def test_what_was_done_for_a_letter_is_undone_where_nobody_can_have_it(
    greeting: bytes | None, end: bytes | None, undone: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not where the server had all of it, and may have taken it."""
    monkeypatch.setattr(module, "PAUSES_SECONDS", ())
    ends, took_back = Ends(), asyncio.Event()
    talk = {b"": greeting, b"EHLO": b"250 hello\r\n", b"MAIL": b"250 yes\r\n", b"RCPT": b"250 yes\r\n",
            b"DATA": b"354 go on\r\n", b"From": end, b"RSET": b"250 yes\r\n", b"QUIT": b"221 bye\r\n"}  # fmt: skip

    async def undo() -> None:
        took_back.set()

    async with (
        serving(lambda: Scripted(talk, bytearray())) as port,
        mailing(port, ends, timeout_seconds=2 if end == b"" else 20) as mailer,
    ):
        mailer.post(hello(mailer), undo)
        assert await ends.one() == "failed"
    assert took_back.is_set() is undone


async def test_what_cannot_be_taken_back_keeps_no_letter_from_its_end() -> None:
    """Whatever is wrong there: more such letters than are sent at a time all end, and so does the one behind them."""
    ends = Ends()

    async def wrong() -> None:
        raise RuntimeError("nobody thought of this")

    async with serving(lambda: Scripted({b"": b"554 no\r\n"}, bytearray())) as port, mailing(port, ends) as mailer:
        for _ in range(module.SENDERS + 1):
            mailer.post(wrong, wrong)
        mailer.post(hello(mailer))
        assert [await ends.one() for _ in range(module.SENDERS + 2)] == ["failed"] * (module.SENDERS + 2)


async def test_what_is_said_before_tls_is_not_taken_for_said_within(
    certificates: Certificates, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever sits in between has answers come with that to STARTTLS: neither the letter nor the password follows."""
    monkeypatch.setattr(module, "PAUSES_SECONDS", ())
    ends, heard = Ends(), bytearray()
    within = b"250-hello\r\n250 AUTH PLAIN\r\n235 welcome\r\n250 yes\r\n250 yes\r\n354 go on\r\n250 taken\r\n"
    talk = {
        b"": b"220 hello\r\n",
        b"EHLO": b"250-hello\r\n250-AUTH PLAIN\r\n250 STARTTLS\r\n",
        b"STARTTLS": b"220 go on\r\n" + within,
    }
    terms = {"tls": "starttls", "tls_ca_file": certificates.authority, "user": USER, "password": PASSWORD}
    async with (
        serving(lambda: Scripted(talk, heard)) as port,
        mailing(port, ends, timeout_seconds=2, **terms) as mailer,
    ):
        mailer.post(hello(mailer))
        assert await ends.one() == "failed"
    _, _, after = bytes(heard).partition(b"STARTTLS\r\n")
    assert after.startswith(b"\x16\x03"), "a handshake, and nothing in the clear"
    assert not any(word in heard for word in (b"AUTH", b"MAIL", b"RCPT", TO.encode()))


async def test_a_mail_server_hears_the_name_that_people_know() -> None:
    """Nobody is asked for it: a name server that is silent would keep letters back."""
    ends = Ends()
    async with postbox() as box, mailing(box.port, ends) as mailer:
        mailer.post(hello(mailer))
        assert await ends.one() == "sent"
    assert box.callers == ["meter.example"]


@pytest.mark.parametrize(("url", "name"), [
    ("https://meter.example:8443", "meter.example"), ("http://127.0.0.1:8080", "[127.0.0.1]"),
    ("http://[2001:db8::1]", "[IPv6:2001:db8::1]"), ("https://z\u00e4hler.example", "xn--zhler-gra.example"),
])  # fmt: skip
def test_our_name_is_one_that_mail_servers_take(url: str, name: str) -> None:
    """Where the service has no name, its address as a literal."""
    assert module._own_name(url) == name


async def test_a_server_that_is_away_is_asked_again() -> None:
    """Until it is there."""
    ends = Ends()
    async with serving(Silent) as port:
        pass
    async with mailing(port, ends) as mailer:
        mailer.post(hello(mailer))
        assert await ends.one() == "failed"


async def test_only_so_many_wait(caplog: pytest.LogCaptureFixture) -> None:
    """Further ones are refused at once and counted."""
    ends = Ends()
    terms = MailTerms.model_validate({"host": "127.0.0.1", "from": "meter@example.com"})
    mailer = Mailer(terms, "https://meter.example", ends)
    assert all(mailer.post(hello(mailer)) for _ in range(MOST_WAITING))
    assert not mailer.post(hello(mailer))
    assert ends.outcomes == {"dropped": 1}
    assert caplog.records[-1].levelno == logging.ERROR


async def test_at_the_end_letters_that_wait_are_sent() -> None:
    """Somebody was told that they are on their way; no more are taken."""
    ends = Ends()
    async with postbox() as box, mailing(box.port, ends) as mailer:
        for _ in range(SENDERS + 2):
            assert mailer.post(hello(mailer))
        await mailer.finish(30)
        assert ends.outcomes == {"sent": SENDERS + 2}
        assert not mailer.post(hello(mailer))
    assert box.recipients == [TO] * (SENDERS + 2)


async def test_the_end_waits_for_nobody_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    """What could not be sent by then is counted, whether it was on its way or not."""
    ends = Ends()
    async with serving(Silent) as silent, mailing(silent, ends) as mailer:
        for _ in range(SENDERS + 2):
            mailer.post(hello(mailer))
        await mailer.finish(0.01)
        assert ends.outcomes == {}
    assert ends.outcomes == {"dropped": SENDERS + 2}
    assert caplog.messages == ["letters were dropped: the worker ends"]


async def test_while_a_worker_that_ends_waits_for_requests_letters_still_go() -> None:
    """None of them is counted twice, as one that was dropped as well."""
    ends = Ends()
    async with postbox() as box, mailing(box.port, ends) as mailer:
        box.taking.clear()
        for _ in range(SENDERS + 2):
            mailer.post(hello(mailer))
        await mailer.finish(0.01)
        box.taking.set()
        assert [await ends.one() for _ in range(SENDERS + 2)] == ["sent"] * (SENDERS + 2)
    assert ends.outcomes == {"sent": SENDERS + 2}


@pytest.mark.parametrize("to", [
    "nobody", "a,b@example.com", "a@example.com\r\nBcc: b@example.com", "a b@example.com", "<a@example.com", "a@b@c", "a@(x)",
    "ann(1)@example.com", '"a"@example.com', "=?utf-8?q?a=0d=0aBcc:b?=@example.com", "operator@localhost",
])  # fmt: skip
async def test_what_is_no_address_gets_nothing(to: str, caplog: pytest.LogCaptureFixture) -> None:
    """Also where it would be two, somebody else's, or a header of its own; the log says no more than that."""
    ends = Ends()
    async with postbox() as box, mailing(box.port, ends) as mailer:
        mailer.post(hello(mailer, to))
        assert await ends.one() == "failed"
        mailer.post(hello(mailer))
        assert await ends.one() == "sent"
    assert box.recipients == [TO]
    assert caplog.messages == ["a letter could not be sent: ValueError"]


async def test_what_is_wrong_with_one_letter_ends_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """Not those on their way at the same time either, whatever it is; and nobody reads it in the log."""
    ends, turn = Ends(), asyncio.Event()

    async def late() -> EmailMessage:
        await turn.wait()
        return mailer.letter(TO, "Hello", "there")

    async def broken() -> None:
        raise KeyError(TO)

    async with postbox() as box, mailing(box.port, ends) as mailer:
        mailer.post(late)
        for _ in range(SENDERS + 1):
            mailer.post(broken)
        assert [await ends.one() for _ in range(SENDERS + 1)] == ["failed"] * (SENDERS + 1)
        turn.set()
        assert await ends.one() == "sent"
    assert box.recipients == [TO]
    assert TO not in caplog.text


async def test_a_letter_that_cannot_be_written_yet_is_written_later() -> None:
    """Where PostgreSQL is away for a moment."""
    ends, away = Ends(), [StoreUnavailable("away")]
    async with postbox() as box, mailing(box.port, ends) as mailer:

        async def write() -> EmailMessage:
            if away:
                raise away.pop()
            return mailer.letter(TO, "Hello", "again")

        mailer.post(write)
        assert await ends.one() == "sent"
    assert isinstance(box, Postbox)
    assert box.recipients == [TO]


async def test_there_may_be_nothing_to_say() -> None:
    """Then nothing is sent or counted."""
    ends, asked = Ends(), asyncio.Event()

    async def write() -> None:
        asked.set()

    async with postbox() as box, mailing(box.port, ends) as mailer:
        mailer.post(write)
        await asked.wait()
        mailer.post(hello(mailer))
        assert await ends.one() == "sent"
    assert ends.outcomes == {"sent": 1}


def test_an_authority_that_is_not_there_is_told_at_the_start(tmp_path: Path) -> None:
    """Not with the first letter."""
    terms = MailTerms.model_validate({"host": "a", "from": "m@example.com", "tls_ca_file": tmp_path / "no.pem"})
    with pytest.raises(OSError, match="No such file"):
        Mailer(terms, "https://meter.example", Ends())
