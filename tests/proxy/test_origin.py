"""Origin: where a request comes from, whatever it says itself."""

from ipaddress import ip_address, ip_network

import pytest
from multidict import CIMultiDict

from meterproxy.proxy.origin import neighbourhood, origin, read_address

TRUSTED = (ip_network("10.0.0.0/8"), ip_network("2001:db8::/32"))


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        ("1.2.3.4", [], "1.2.3.4"),
        ("1.2.3.4", ["9.9.9.9"], "1.2.3.4"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", ["9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", ["6.6.6.6, 9.9.9.9"], "9.9.9.9"),
        ("10.0.0.1", ["6.6.6.6, 9.9.9.9, 10.2.3.4"], "9.9.9.9"),
        ("10.0.0.1", ["6.6.6.6", "9.9.9.9", "10.2.3.4"], "9.9.9.9"),
        ("10.0.0.1", ["10.3.3.3, 10.2.3.4"], "10.3.3.3"),
        ("::ffff:10.0.0.1", ["9.9.9.9"], "9.9.9.9"),
        ("2001:db8::1", ["2a00::7"], "2a00::7"),
        ("10.0.0.1", ["[2a00::7]:443"], "2a00::7"),
        ("10.0.0.1", ["9.9.9.9:1234"], "9.9.9.9"),
        ("10.0.0.1", ["9.9.9.9, unknown"], None),
        ("10.0.0.1", ["9.9.9.9,"], None),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("fe80::1%eth0", [], "fe80::1"),
        ("", ["9.9.9.9"], None),
        ("10.0.0.1", ["9" * 5000], None),
    ],
)
def test_only_trusted_words_are_taken(peer: str, forwarded: list[str], address: str | None) -> None:
    """From the right, through trusted networks, to the first address that is not one of them."""
    headers = CIMultiDict([("X-Forwarded-For", entry) for entry in forwarded])
    assert origin(peer, headers, TRUSTED) == (None if address is None else ip_address(address))
    assert origin("10.0.0.1", headers, ()) == ip_address("10.0.0.1")


def test_a_long_list_is_not_walked_to_its_end() -> None:
    """A client cannot make us read what it made up."""
    headers = CIMultiDict([("X-Forwarded-For", ", ".join(["9.9.9.9"] + ["10.0.0.2"] * 10_000))])
    assert origin("10.0.0.1", headers, TRUSTED) == ip_address("10.0.0.2")


@pytest.mark.parametrize(("address", "counted"), [
    ("203.0.113.9", "203.0.113.9"), ("::ffff:203.0.113.9", "203.0.113.9"), ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
    ("2001:db8:1:2::", "2001:db8:1:2::/64"), ("fe80::1%eth0", "fe80::/64"), ("somewhere", ""),
])  # fmt: skip
def test_who_has_one_address_of_a_network_is_counted_as_all_of_it(address: str, counted: str) -> None:
    """Where anybody may take as many as he likes."""
    assert neighbourhood(read_address(address)) == counted
