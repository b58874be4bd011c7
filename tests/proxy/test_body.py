"""The top-level scanner: spans, readers, refusals, and bytes that stay as they are."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproxy.errors import ApiError
from meterproxy.proxy.body import MEMBERS_MAXIMUM, Edit, scan, splice

WANTED = frozenset({"model", "max_tokens", "stream", "stream_options"})


@pytest.mark.parametrize(
    ("body", "raw"),
    [
        (b'{"model":"m"}', {"model": b'"m"'}),
        (b' {\n "model" : "a\\"b" ,\t"max_tokens": 7\r\n} ', {"model": b'"a\\"b"', "max_tokens": b"7"}),
        (b'{"messages":[{"model":"x"},{}],"model":null}', {"model": b"null"}),
        (b'{"\\u006dodel":"m"}', {"model": b'"m"'}),
        (b'{"x":1,"x":2,"X":3,"model":"m"}', {"model": b'"m"'}),
        (b'{"x":[1e999,-0.0,123456789012345678901234567890],"model":"m"}', {"model": b'"m"'}),
        (b'{"x":"\\ud800","model":"m"}', {"model": b'"m"'}),
        (b'{"\\ud800":"\\udfff","y":"\\\\ud800","model":"m"}', {"model": b'"m"'}),
        (b'{"\\ud06dodel":1,"x":"\\ud800","model":"m"}', {"model": b'"m"'}),
        (b'{"x":"\xff\xfe","model":"m"}', {"model": b'"m"'}),
        ('{"é":"\u2028","model":"m"}'.encode(), {"model": b'"m"'}),
        (b"{}", {}),
    ],
)
def test_finds_spans_of_the_members_we_read(body, raw):
    """Each wanted member is found with its value's exact bytes."""
    members = scan(body, WANTED)
    assert {name: members.raw(name) for name in members.spans} == raw


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b'"x"',
        b"null",
        b"{",
        b'{"model":"m"',
        b'{"model":"m",}',
        b'{"model":"m"}x',
        b'{"model":"m"}{"model":"n"}',
        b'{"model":NaN}',
        b'{"model":01}',
        b"{'model':1}",
        b'{"x":"\n"}',
        b'{"x":"\\q"}',
        b'{"x":"\\ud8zz"}',
        b"\xef\xbb\xbf{}",
        b'{"\xff":1}',
        b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"x":' + b'{"x":' * 100_000,
        b"{" + b",".join([b'"x":1'] * (MEMBERS_MAXIMUM + 1)) + b"}",
    ],
)
def test_refuses_what_is_not_one_json_object(body):
    """Anything but one JSON object is a 400, however deep or long it is."""
    with pytest.raises(ApiError) as refused:
        scan(body, WANTED)
    assert refused.value.status == 400


def test_says_that_members_are_too_many() -> None:
    """An object that is JSON but has too many members is not called anything else."""
    body = b"{" + b",".join([b'"x":1'] * (MEMBERS_MAXIMUM + 1)) + b"}"
    with pytest.raises(ApiError, match="more than 1000 members"):
        scan(body, WANTED)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"model":"a","model":"b"}', "model"),
        (b'{"model":"a","Model":"b"}', "model"),
        (b'{"MODEL":"a"}', "model"),
        (b'{"model":"a","\\u006Dodel":"b"}', "model"),
        (b'{"model":"a","max_to\\u212aens":1}', "max_tokens"),
        ('{"\u017ftream":true}'.encode(), "stream"),
        (b'{"model":"a","x":"\\ud800","model":"b"}', "model"),
    ],
)
def test_refuses_a_member_that_can_be_read_in_two_ways(body, param):
    """Duplicates and names that differ only by case are refused by name."""
    with pytest.raises(ApiError) as refused:
        scan(body, WANTED)
    assert (refused.value.status, refused.value.param) == (400, param)


@pytest.mark.parametrize(
    ("raw", "value"),
    [(b"0", 0), (b"7", 7), (b"2147483648", 2**31), (b"null", None)]
    + [
        (raw, ApiError)
        for raw in (
            b"2147483649",
            b"-1",
            b"-0",
            b"1.0",
            b"1e3",
            b'"7"',
            b"true",
            b"[]",
            b"9" * 5000,
            b"18446744073709551616",
        )
    ],
)
def test_maxima_are_integers(raw, value):
    """A maximum is an integer in 0…2^31, else a 400 that names it."""
    members = scan(b'{"max_tokens":%b}' % raw, WANTED)
    if value is ApiError:
        with pytest.raises(ApiError) as refused:
            members.integer("max_tokens")
        assert refused.value.param == "max_tokens"
    else:
        assert members.integer("max_tokens") == value


@pytest.mark.parametrize(
    ("raw", "value"),
    [(b'"gpt"', "gpt"), (b'"\\u00e9"', "é"), (b'""', ""), (b"null", None)]
    + [(raw, ApiError) for raw in (b"1", b"{}", b'"\\ud800"', b'"\xff"', b'"%b"' % (b"x" * 2000))],
)
def test_strings_are_unicode_and_short(raw, value):
    """A string we read is Unicode text of a sensible length."""
    members = scan(b'{"model":%b}' % raw, WANTED)
    if value is ApiError:
        with pytest.raises(ApiError):
            members.string("model")
    else:
        assert members.string("model") == value


@pytest.mark.parametrize(("raw", "value"), [(b"true", True), (b"false", False), (b"null", False), (b"1", ApiError)])
def test_booleans(raw, value):
    """A boolean is a boolean; null reads as absent."""
    members = scan(b'{"stream":%b}' % raw, WANTED)
    if value is ApiError:
        with pytest.raises(ApiError):
            members.boolean("stream")
    else:
        assert members.boolean("stream") is value


def test_absent_and_size():
    """Missing and null are absent; a size is the value's bytes."""
    members = scan(b'{"model":null,"stream":true}', WANTED)
    assert members.absent("model")
    assert members.absent("max_tokens")
    assert not members.absent("stream")
    assert (members.size("stream"), members.size("max_tokens")) == (4, 0)


@pytest.mark.parametrize(
    ("body", "values", "wanted"),
    [
        (b'{ "model" : "a" }', {"model": b'"b"'}, b'{ "model" : "b" }'),
        (b'{"model":"a", "x": [1 , 2]}', {"max_tokens": b"5"}, b'{"model":"a", "x": [1 , 2],"max_tokens":5}'),
        (b" {} ", {"model": b'"a"', "max_tokens": b"5"}, b' {"model":"a","max_tokens":5} '),
        (
            b'{"max_tokens":null,"model":"a"}\n',
            {"model": b'"b"', "max_tokens": b"5", "stream": b"true"},
            b'{"max_tokens":5,"model":"b","stream":true}\n',
        ),
    ],
)
def test_rewrites_only_what_must_change(body, values, wanted):
    """Members are replaced in place or appended; every other byte stays."""
    assert scan(body, WANTED).rewrite(values) == wanted


def test_reads_members_of_members():
    """A nested object is scanned by the same rules, and refused by its path."""
    options = scan(b'{"stream_options": {"a": 1, "include_usage": false}}', WANTED)
    inner = options.members("stream_options", frozenset({"include_usage"}))
    assert inner.rewrite({"include_usage": b"true"}) == b'{"a": 1, "include_usage": true}'
    assert scan(b'{"stream_options":null}', WANTED).members("stream_options", WANTED) is None
    for raw, param in ((b"7", "stream_options"), (b'{"stream":1,"stream":2}', "stream_options.stream")):
        with pytest.raises(ApiError) as refused:
            scan(b'{"stream_options":%b}' % raw, WANTED).members("stream_options", WANTED)
        assert refused.value.param == param


@pytest.mark.parametrize(
    ("body", "without"),
    [
        (b'{"model":1}', b"{}"),
        (b'{"model":1,"x":2}', b'{"x":2}'),
        (b'{"x":2 , "model" : 1 }', b'{"x":2 }'),
        (b'{"x":2,"model":1,"y":3}', b'{"x":2,"y":3}'),
    ],
)
def test_cuts_a_member_with_one_comma(body, without):
    """A member's cut leaves valid JSON with the other bytes as they were."""
    span = scan(body, WANTED).spans["model"]
    assert splice(body, [Edit(span.cut_start, span.cut_end, b"")]) == without


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=200)
@given(
    st.dictionaries(st.sampled_from([*WANTED, "a", "b,", '"', "\\", "é", "{"]), json_values),
    st.sampled_from([(",", ":"), (", ", ": "), (" ,\n", "\t:\r\n")]),
    st.booleans(),
)
def test_spans_are_those_of_the_document(document, separators, ascii_only):
    """Every wanted member's span is the JSON of its value, and rewriting it changes nothing else."""
    body = json.dumps(document, separators=separators, ensure_ascii=ascii_only).encode()
    members = scan(body, WANTED)
    assert set(members.spans) == WANTED & set(document)
    for name in members.spans:
        assert json.loads(members.raw(name)) == document[name]
    changed = dict.fromkeys(WANTED, b'{"new":[]}')
    assert json.loads(members.rewrite(changed)) == document | {name: {"new": []} for name in WANTED}
