"""Forms: what a browser sends is read like what the API reads of JSON."""

import pytest

from meterproxy.control import bodies, forms
from meterproxy.control.limit_bodies import ChangedLimit
from meterproxy.control.organization_endpoints import NewInvitation
from meterproxy.control.own_key_endpoints import OwnKey, Rotation
from meterproxy.control.provider_bodies import ChangedProvider
from meterproxy.errors import ApiError, Case


@pytest.mark.parametrize(("text", "nanos"), [
    ("5", 5_000_000_000), ("5.00", 5_000_000_000), ("0.000000001", 1), ("$5", 5_000_000_000), (" 5.00 ", 5_000_000_000),
    ("$10,000.00", 10_000_000_000_000), ("1,000,000.50", 1_000_000_500_000_000),
])  # fmt: skip
def test_an_amount_is_read_with_and_without_cents(text: str, nanos: int) -> None:
    """Somebody who types 5 means five dollars, and what pages show is read back as it stands there."""
    assert forms.read(bodies.NewCredit, {"amount": text, "kind": "grant", "csrf": "x"}).amount == nanos
    assert forms.read(OwnKey, {"name": "k", "highest_request": text, "models": ""}).highest_request == nanos


def test_lists_switches_numbers_and_what_is_empty() -> None:
    """Commas or line ends between; a switch is there or not; an empty field is none."""
    read = forms.read(OwnKey, {"name": "k", "models": "gpt-*, o3\no4", "reads_usage": "on", "description": ""})
    assert (read.models, read.reads_usage, read.description) == (("gpt-*", "o3", "o4"), True, "")
    assert forms.read(Rotation, {"grace_seconds": "60"}).grace_seconds == 60
    assert forms.read(Rotation, {"grace_seconds": "3,600"}).grace_seconds == 3600
    assert forms.read(ChangedLimit, {"marks": "50, 80,100"}).marks == (50, 80, 100)


def test_tables_and_what_is_within_a_member() -> None:
    """Lines of names and values, null where there is none; a dot leads into a member; empty is as it would be."""
    given = {"headers": "X-Team: a:b\n\nX-Gone:", "timeouts.connect_seconds": "2.5", "timeouts.first_byte_seconds": ""}
    wish = forms.read(ChangedProvider, given)
    assert wish.header_values() == {"X-Team": "a:b", "X-Gone": None}
    assert wish.changes() == {"connect_seconds": 2.5}


@pytest.mark.parametrize(
    ("text", "said"), [("X-Team: a\nsecret", "Line 2"), (":secret", "Line 1"), ("A: b\nA: secret", "Line 2")]
)
def test_a_table_that_cannot_be_read_is_not_repeated(text: str, said: str) -> None:
    """Where a colon is missing, what stands there may be anything."""
    with pytest.raises(ApiError, match=said) as refused:
        forms.read(ChangedProvider, {"headers": text})
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(("kind", "given", "param"), [
    (ChangedProvider, {"timeouts.connect_seconds": "soon"}, "timeouts.connect_seconds"),
    (ChangedProvider, {"timeouts.patience": "1"}, "timeouts.patience"),
    (ChangedProvider, {"models.patience": "1"}, "models.patience"),
    (bodies.NewCredit, {"amount": "5,00", "kind": "grant"}, "amount"),
    (bodies.NewCredit, {"amount": "5,000", "kind": "grant"}, "amount"),
    (bodies.NewCredit, {"amount": "10,00.00", "kind": "grant"}, "amount"),
    (Rotation, {"grace_seconds": "1,00"}, "grace_seconds"),
    (bodies.NewCredit, {"amount": "5.00", "kind": "grant", "balance": "1"}, "balance"),
    (Rotation, {"grace_seconds": "soon"}, "grace_seconds"),
    (ChangedLimit, {"marks": "50, soon"}, "marks.1"),
    (NewInvitation, {"email": "nobody", "role": "member"}, "email"),
])  # fmt: skip
def test_a_fault_names_its_field(kind: type, given: dict[str, str], param: str) -> None:
    """As JSON's does, and unknown fields are faults."""
    with pytest.raises(ApiError) as refused:
        forms.read(kind, given)
    assert (refused.value.case, refused.value.param) == (Case.MALFORMED, param)
