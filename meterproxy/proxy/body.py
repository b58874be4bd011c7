"""The top-level scanner: finds the members of a JSON body that we read, without building the rest of it.

msgspec validates the document and gives every top-level value as a raw view. A body in the SDKs' spelling is read by
that alone; for any other, and for each that is changed, one regular expression walks the keys between those values, so
that each member is known by its byte span and changed by splicing bytes.

Rules
-----
- The client's bytes go on as they are; only spans of members are replaced, cut, or appended.
- The danger is another reading of the same bytes at the provider. So a member we read must appear once, spelled as it
  is: a duplicate, or a name that differs only by case (Unicode folding included), is refused. Names written with
  escapes are decoded first. Members we do not read may repeat.
- The document must be JSON: what msgspec refuses (NaN, trailing bytes, a byte order mark, control characters in
  strings, nesting beyond the interpreter's recursion limit) is refused, numbers of any size pass, and lone surrogates
  pass, as does what is not UTF-8 inside strings that we do not read: the provider judges those.
- At most `MEMBERS_MAXIMUM` top-level members.
- Scanning runs in one step on the event loop; a thread would not help, because the interpreter's lock is held all the
  same. Large bodies are made short before, in many steps: see `large_body`.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple, Never

import msgspec
import orjson

from meterproxy.errors import ApiError, Case
from meterproxy.proxy.outline import Counts, counts

MEMBERS_MAXIMUM: Final = 1000
"""Top-level members in one object; the longest request of the API has about fifty."""
TEXT_MAXIMUM: Final = 1024
"""Bytes of a string member that we read (a model's name, a service tier)."""
INTEGER_MAXIMUM: Final = 2**31
COMPACT_BYTES: Final = 1 << 16
"""Longer bodies are walked at once: what a walk costs more is nothing to them, and hostile ones are bounded there."""

_KEY: Final = re.compile(rb'[ \t\n\r]*+[{,][ \t\n\r]*+("[^"\\]*+(?:\\.[^"\\]*+)*+")[ \t\n\r]*+:[ \t\n\r]*+')
_INTEGER: Final = re.compile(rb"\d{1,10}")
_ABSENT: Final = b"null"


class Malformed(ApiError):
    """The body cannot be read, or not in one way only: the client gets a 400."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(Case.MALFORMED, message, param=param)


class Member(NamedTuple):
    """Where a member is: its value is `body[start:end]`; `body[cut_start:cut_end]` is the member with one comma."""

    start: int
    end: int
    cut_start: int
    cut_end: int


class Edit(NamedTuple):
    """`body[start:end]` becomes `replacement`; `start == end` inserts."""

    start: int
    end: int
    replacement: bytes


class _Name:
    """A key that equals only itself, so that duplicates stay apart; its text is read from the body."""

    __slots__ = ()


class _NameCounter:
    """Makes a `_Name` per key and gives up beyond the maximum, before a hostile body costs seconds."""

    __slots__ = ("count", "most")

    def __init__(self, most: int) -> None:
        self.count = 0
        self.most = most

    def __call__(self, _kind: object, _text: object) -> _Name:
        self.count += 1
        if self.count > self.most:
            raise ValueError("too many members")
        return _Name()


Body = bytes | list[bytes | memoryview]
"""What is sent: in one piece, or in several where putting them together would take long."""

_OBJECT: Final = dict[_Name, msgspec.Raw]
_COMPACT: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])


class Spans(NamedTuple):
    """Where the members that we read are, and where the next one would be appended."""

    of: Mapping[str, Member]
    tail: int
    """After the last value, or after the opening brace."""
    empty: bool


class Members:
    """The top-level members of one JSON object that we read, with typed readers; null reads as absent."""

    __slots__ = ("_param", "_spans", "_values", "_wanted", "body", "document")

    def __init__(
        self, body: bytes, values: Mapping[str, msgspec.Raw | bytes], wanted: frozenset[str], param: str | None
    ) -> None:
        self.body = body
        self.document = body
        """What is searched and read: of a large body, what is left of it without the most of its long strings."""
        self._values = values
        self._wanted = wanted
        self._param = param
        self._spans: Spans | None = None
        """None: not looked for yet, because the body accounts for its every byte and so ends in its closing brace."""

    @property
    def spans(self) -> Mapping[str, Member]:
        """Where the members are; found when first asked for."""
        return self._found().of

    def _found(self) -> Spans:
        if self._spans is None:
            self._spans = walk(self.body, self._wanted, self._param)
        return self._spans

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def none_of(self, names: frozenset[str]) -> bool:
        """Whether all of these members are missing."""
        return names.isdisjoint(self._values)

    def raw(self, name: str) -> bytes | None:
        """The value's bytes as they are in the body, None where the member is absent; `null` is `b"null"`."""
        value = self._values.get(name)
        return None if value is None else bytes(value)

    def absent(self, name: str) -> bool:
        """Whether the member is missing or null."""
        value = self._values.get(name)
        return value is None or (len(value) == len(_ABSENT) and bytes(value) == _ABSENT)

    def size(self, name: str) -> int:
        """Bytes of the member's value, 0 where it is absent."""
        value = self._values.get(name)
        return 0 if value is None else len(value)

    length = staticmethod(len)
    """How many bytes a value has that was read from the document."""

    def finds(self, pattern: re.Pattern[bytes], _name: str, raw: bytes) -> bool:
        """Whether a member's value, which is `raw`, has what the pattern finds, which has no comma in it."""
        return pattern.search(raw) is not None

    def counts(self, _name: str, raw: bytes, most_strings: int) -> Counts:
        """What a member's value, which is `raw`, holds, if its strings are not more than so many."""
        return counts(raw, most_strings)

    def dense(self, name: str, raw: bytes, most_commas: int) -> bool:
        """Whether a member's value has more commas than that, or twice as many strings."""
        if raw.count(b",") <= most_commas:
            return False
        held = self.counts(name, raw, 2 * most_commas)
        return held.strings > 2 * most_commas or held.commas > most_commas

    def written(self, name: str) -> str:
        """The value as it is written, as text."""
        return (self.raw(name) or b"").decode("utf-8", "replace")

    def to_send(self, values: Mapping[str, bytes]) -> Body:
        """The body with these members set, as `rewrite`, for whoever sends it."""
        return self.rewrite(values) if values else self.body

    def integer(self, name: str, maximum: int = INTEGER_MAXIMUM) -> int | None:
        """The value as an integer in 0…maximum, written as digits only.

        Raises:
            Malformed: a fraction, an exponent, a sign, another type, or out of range.
        """
        raw = self.raw(name)
        if raw is None or raw == _ABSENT:
            return None
        value = int(raw) if _INTEGER.fullmatch(raw) is not None else -1
        if not 0 <= value <= maximum:
            raise Malformed(f"'{name}' must be an integer between 0 and {maximum}.", param=name)
        return value

    def string(self, name: str) -> str | None:
        """The value as text without lone surrogates, at most `TEXT_MAXIMUM` bytes as written.

        Raises:
            Malformed: another type, too long, or not Unicode.
        """
        raw = self.raw(name)
        if raw is None or raw == _ABSENT:
            return None
        if not raw.startswith(b'"'):
            raise Malformed(f"'{name}' must be a string.", param=name)
        if len(raw) > TEXT_MAXIMUM:
            raise Malformed(f"'{name}' is too long.", param=name)
        return _text(raw, name)

    def boolean(self, name: str) -> bool:
        """The value as a boolean, False where it is absent.

        Raises:
            Malformed: another type.
        """
        raw = self.raw(name)
        if raw == b"true":
            return True
        if raw in {None, b"false", _ABSENT}:
            return False
        raise Malformed(f"'{name}' must be a boolean.", param=name)

    def members(self, name: str, wanted: frozenset[str]) -> "Members | None":
        """The members of a value that is itself an object, None where it is absent.

        Raises:
            Malformed: not an object, or as `scan`.
        """
        if self.absent(name):
            return None
        return _scan(self.raw(name) or b"", wanted, name)

    def rewrite(self, values: Mapping[str, bytes]) -> bytes:
        """The body with members set to raw JSON values: present ones (that were scanned for) replaced, others appended.

        All other bytes stay as they are. A name that was not in `wanted` is taken for absent, so scan for it first.
        """
        if self._spans is None and values.keys().isdisjoint(self._values):
            added = b"".join([b',"%b":%b' % (name.encode(), raw) for name, raw in values.items()])
            return b"%b%b}" % (self.body[:-1], added)
        return splice(self.body, self._edits(values))

    def _edits(self, values: Mapping[str, bytes]) -> list[Edit]:
        spans, tail, empty = self._found()
        edits = [Edit(spans[name][0], spans[name][1], raw) for name, raw in values.items() if name in spans]
        added = b",".join(b'"%b":%b' % (name.encode(), raw) for name, raw in values.items() if name not in spans)
        if added:
            edits.append(Edit(tail, tail, added if empty else b"," + added))
        return edits


def scan(body: bytes, wanted: frozenset[str]) -> Members:
    """Find the spans of the top-level members named in `wanted` (lower-case names).

    Raises:
        Malformed: not a JSON object, too many members, or a member of `wanted` that appears twice or in another case.
    """
    return _scan(body, wanted, None)


def splice(body: bytes, edits: Iterable[Edit]) -> bytes:
    """Apply edits whose spans do not overlap and refer to the given body."""
    return b"".join(spliced(body, edits))


def spliced(body: bytes | memoryview, edits: Iterable[Edit]) -> list[bytes | memoryview]:
    """As `splice`, in pieces that need not be put together."""
    pieces: list[bytes | memoryview] = []
    position = 0
    for start, end, replacement in sorted(edits, key=_edit_start):
        pieces += (body[position:start], replacement)
        position = end
    pieces.append(body[position:])
    return pieces


def without_surrogates(document: bytes) -> bytes:
    r"""JSON of the same length, structure and faults without surrogates: every `\udxxx` is written as `\u0xxx`."""
    return document.replace(b"\\ud", b"\\u0").replace(b"\\uD", b"\\u0")


def _edit_start(edit: Edit) -> int:
    return edit.start


def _scan(body: bytes, wanted: frozenset[str], param: str | None) -> Members:
    values = _compact(body, wanted) if len(body) <= COMPACT_BYTES else None
    if values is not None:
        return Members(body, values, wanted, param)
    spans = walk(body, wanted, param)
    members = Members(body, {name: body[span.start : span.end] for name, span in spans.of.items()}, wanted, param)
    members._spans = spans  # noqa: SLF001 - found already
    return members


def _compact(body: bytes, wanted: frozenset[str]) -> dict[str, msgspec.Raw] | None:
    """The wanted values of a body that accounts for its every byte, as the SDKs write it; None where a walk must tell.

    Without spaces the lengths of names and values with their punctuation come to the body's own. A name that was
    repeated, or written with escapes, would leave bytes over; a name with capitals is not looked at any closer here.
    """
    try:
        values = _COMPACT.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    # Two braces; for each member two quotes, a colon, and a comma but for the last.
    accounted = 1 + 4 * len(values) + sum(map(len, values)) + sum(map(len, values.values()))
    if accounted != len(body) or not 0 < len(values) <= MEMBERS_MAXIMUM:
        return None
    if values.keys() <= wanted:
        return values
    if any(name != name.casefold() for name in values.keys() - wanted):
        return None
    return {name: values[name] for name in values.keys() & wanted}


def walk(body: bytes, wanted: frozenset[str], param: str | None) -> Spans:
    """Where the members are. Raises Malformed, as `scan`."""
    return spans_between(body, value_lengths(body, param), wanted, param)


def spans_between(body: bytes, lengths: list[int], wanted: frozenset[str], param: str | None) -> Spans:
    """Walk the keys between the values whose lengths the decoder found. Raises Malformed, as `scan`."""
    spans: dict[str, Member] = {}
    position = 0
    pending: tuple[str, int, int, int] | None = None
    for length in lengths:
        key = _KEY.match(body, position)
        if key is None:
            refuse(param)
        if pending is not None:
            name, key_start, start, end = pending
            spans[name] = Member(start, end, key_start, key.start(1))
            pending = None
        start, name = key.end(), _key_text(key[1])
        folded = name.casefold()
        end = start + length
        if folded in wanted:
            if name != folded or name in spans:
                _refuse_repeated(folded, param)
            if position:
                spans[name] = Member(start, end, position, end)
            else:
                pending = (name, key.start(1), start, end)
        position = end
    if pending is not None:
        name, key_start, start, end = pending
        spans[name] = Member(start, end, key_start, end)
    return Spans(spans, position or body.index(b"{") + 1, not lengths)


def value_lengths(body: bytes, param: str | None, most: int = MEMBERS_MAXIMUM) -> list[int]:
    """Bytes of each top-level value in order; refuses what is not a JSON object of at most so many members."""
    try:
        return _decode_lengths(body, most)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        if body.find(b"\\ud") < 0 and body.find(b"\\uD") < 0:
            refuse(param)
    # The decoder refuses lone surrogates.
    try:
        return _decode_lengths(without_surrogates(body), most)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        refuse(param)


def _decode_lengths(body: bytes, most: int) -> list[int]:
    counter = _NameCounter(most)
    try:
        values = msgspec.json.decode(body, type=_OBJECT, dec_hook=counter)
    except msgspec.ValidationError:
        if counter.count > most:
            too_many_members()
        raise
    return [len(value) for value in values.values()]


def _key_text(token: bytes) -> str:
    """A key's text; one that no decoder can read (a lone surrogate) is no name that we know."""
    if token.find(b"\\") < 0:
        return token[1:-1].decode("utf-8", "replace")
    try:
        return str(orjson.loads(token))
    except orjson.JSONDecodeError:
        return ""


def _text(raw: bytes, name: str) -> str:
    try:
        return str(orjson.loads(raw))
    except orjson.JSONDecodeError:
        raise Malformed(f"'{name}' is not valid Unicode text.", param=name) from None


def refuse(param: str | None = None) -> Never:
    """Say that this is no JSON object. Raises Malformed."""
    if param is not None:
        raise Malformed(f"'{param}' must be an object.", param=param)
    raise Malformed("We could not parse the JSON body of your request. It must be one JSON object.")


def too_many_members() -> Never:
    """Raises Malformed."""
    raise Malformed(f"The JSON object has more than {MEMBERS_MAXIMUM} members.") from None


def _refuse_repeated(name: str, param: str | None) -> Never:
    path = name if param is None else f"{param}.{name}"
    raise Malformed(f"'{path}' appears more than once or in another case.", param=path)
