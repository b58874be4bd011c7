"""Addresses of mail: those that a letter goes to, and that everybody reads alike."""

from email.headerregistry import Address
from email.utils import getaddresses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproxy.core.mail_address import mailbox


@pytest.mark.parametrize("address", [
    "ann@example.com", "Ann.O'Neil+meter@mail.example.com", "a=b{c}@example", "ann@xn--mnchen-3ya.de", "ann@m\u00fcnchen.de",
    "ann@\u092d\u093e\u0930\u0924.example", "a@b", f"{'a' * 242}@example.com",
])  # fmt: skip
def test_a_letter_goes_to_an_address_as_it_is(address: str) -> None:
    """Sign by sign."""
    box = mailbox(address)
    assert box is not None
    assert f"{box.name}@{box.domain}" == address


@pytest.mark.parametrize("address", [
    "", "ann", "@", "ann@", "@example.com", "a@b@c", "<ann@example.com", "ann@example.com>", "Ann <ann@example.com>",
    "ann(x)@example.com", "(x)ann@example.com", "ann@example.com(x)", "ann@(x)", "(@b", "ann@[127.0.0.1]", "ann@[",
    '"ann"@example.com', '"a,b"@example.com', "a,b@example.com", "a;b@example.com", "a:b@example.com", "a\\b@example.com",
    "=?utf-8?q?ann?=@example.com", "=?utf-8?q?a=0d=0aBcc:eve?=@example.com", ".ann@example.com", "ann.@example.com",
    "a..b@example.com", "ann@example..com", "ann@example.com.", "ann@.example.com", "ann @example.com", "ann@exam ple.com",
    "ann@example.com\r\nBcc: eve@example.com", "ann@example.com\n", "ann\x00@example.com", "ann@exa\u2028mple.com",
    "ann@exa\u202emple.com", "ann@exa\u200bmple.com", "ann@\uff45xample.com", "ann@example\uff0ecom", "ann@\u212aelvin.example",
    "\u00e4nn@example.com", "operator@localhost", "operator@LocalHost", "ann@mail.localhost", "ann@no.invalid",
    f"{'a' * 243}@example.com", "ann@exa\ud800mple.com",
])  # fmt: skip
def test_no_letter_goes_to_what_could_be_read_otherwise(address: str) -> None:
    """Comments, quotes, encodings, lists, other routes, look-alikes, and whoever has a name at the mail server itself."""
    assert mailbox(address) is None


@given(st.text(st.sampled_from("ab.@+-_'()<>[]:;,\\\"=?%! \t\r\n\u00e4"), max_size=20) | st.emails())
def test_a_mail_library_finds_the_same_recipient(address: str) -> None:
    """And only that one, in whatever is taken for an address here."""
    box = mailbox(address)
    if box is not None:
        assert getaddresses([address]) == [("", address)]
        assert Address(username=box.name, domain=box.domain).addr_spec == address
        assert Address(addr_spec=address).addr_spec == address
