"""Mentions: which resources of a provider a request names in its body.

Rules
-----
- A member with one of the names in `NAMES` mentions what its text names, wherever in the body it stands: what a
  provider adds to its API is found without being listed place by place. Where a client chooses the names itself
  (schemas, metadata, arguments), they are its own affair.
- An item of `input` or `items` that has an id mentions it, whole or not: for some types a provider fetches what it has
  stored under that id.
- Names are read whatever the case of their letters, as a provider might (Unicode's foldings included).
- Two members of one name in one object could be read in two ways and are refused.
- JSON is read only where the bytes have a mark of something; text alone never has.
"""

import json
import re
from collections.abc import Generator, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from meterproxy.core.resource import (
    AUDIO,
    CONTAINER,
    CONVERSATION,
    FILE,
    ITEM,
    PROMPT,
    RESPONSE,
    SKILL,
    TUNNEL,
    VECTOR_STORE,
    VOICE,
)
from meterproxy.errors import ApiError, Case
from meterproxy.proxy.body import Members

MENTIONS_MAXIMUM: Final = 4096
"""The most ids that one request may name: each may have to be looked up."""
SEPARATORS_MAXIMUM: Final = 50_000
"""The most commas outside of strings in a member that has to be read."""
WALK_STEP: Final = 2048
"""Values that are looked at in one step, about a millisecond."""
SMALL_BYTES: Final = 1 << 16
"""Members of fewer bytes than this are not counted: they cannot hold much."""

NAMES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "previous_response_id": RESPONSE,
        "comparison_response_id": RESPONSE,
        "conversation": CONVERSATION,
        "conversation_id": CONVERSATION,
        "prompt": PROMPT,
        "file_id": FILE,
        "file_ids": FILE,
        "vector_store_id": VECTOR_STORE,
        "vector_store_ids": VECTOR_STORE,
        "container": CONTAINER,
        "container_id": CONTAINER,
        "skill_id": SKILL,
        "tunnel_id": TUNNEL,
        "approval_request_id": ITEM,
        "audio": AUDIO,
        "voice": VOICE,
    }
)
"""Names of members and the kind of what they mention: a text, a list of texts, or an object with an `id`."""

ITEMS: Final = frozenset({"input", "items"})
"""Members whose entries mention what their `id` names."""

OWN_NAMES: Final = frozenset(
    "parameters schema input_schema output_schema metadata headers arguments attributes env filters".split()
)
"""Members below which the client has chosen the names."""
OWN_NAMES_AROUND_PARTS: Final = frozenset({"variables"})
"""Members whose own names the client has chosen, but not those below."""

OBJECTS_ONLY: Final = frozenset({"prompt", "audio", "voice"})
"""Members that mention what an object's `id` names; their texts are texts."""

Marks = re.Pattern[bytes]


_FOLDED: Final = {"s": "(?:[sS]|ſ)", "k": "(?:[kK]|\u212a)"}
"""The letters that others than their capitals fold to."""


def _marks(*names: str) -> Marks:
    """Finds any of these as names of members. It begins with a quote, of which long texts have few: that is quick.

    Each letter is spelled in both cases, because a pattern that ignores case is not looked for by its first letter; and
    of what no name begins like, three letters are looked at and no branch is tried: that counts where texts are short.
    """
    kinds = []
    for initial in sorted({name[0] for name in names}):
        rests = ("".join(map(_either_case, name[1:])) for name in names if name[0] == initial)
        kinds.append(f"{_either_case(initial)}(?:{'|'.join(rests)})")
    initials, seconds, thirds = (_letters(f'{name}"'[place] for name in names) for place in range(3))
    # The long s is two bytes, what comes after it is one further on.
    begins = f"[{initials}][{seconds}][{thirds}{seconds}]"
    return re.compile(f'"(?={begins})(?:{"|".join(kinds)})"'.encode())


def _letters(letters: Iterable[str]) -> str:
    """For a set of bytes: these in either case, and whatever is no ASCII."""
    return "".join(sorted({either for letter in letters for either in (letter, letter.upper())})) + r"\x80-\xff"


def _either_case(letter: str) -> str:
    return _FOLDED.get(letter) or (f"[{letter}{letter.upper()}]" if letter.isalpha() else letter)


MARKS: Final = _marks(*NAMES, "id")
"""What a body has at least once where it mentions anything, unless a name is written with escapes."""
CHAT_MARKS: Final = _marks("file_id", "audio")
"""The same for chat, whose messages have ids of other sorts too (of tool calls)."""

ESCAPED: Final = re.compile(rb"\\u00[2-7]")
"""A letter that needs no escape."""


class Mention(NamedTuple):
    """One resource that a request names; `param` is the member of the body that it stands in."""

    kind: str
    id: str
    param: str


def mentions_of(members: Members, names: Iterable[str], marks: Marks) -> list[Mention]:
    """The resources that these members of a body name, each once; see `mentioning`."""
    work = mentioning(members, names, marks)
    while True:
        try:
            next(work)
        except StopIteration as done:
            found: list[Mention] = done.value
            return found


def mentioning(members: Members, names: Iterable[str], marks: Marks) -> Generator[None, None, list[Mention]]:
    """The resources that these members of a body name, each once, found in steps.

    Raises:
        ApiError: MALFORMED where a member cannot be read in one way only, or names too much.
    """
    found: dict[tuple[str, str], Mention] = {}
    for name in names:
        raw = members.raw(name)
        if raw is None or not raw.startswith((b'"', b"{", b"[")):
            continue
        if name not in NAMES and (raw.startswith(b'"') or not _member_may_mention(members, name, raw, marks)):
            continue
        value = _read(members, name, raw)
        for named in _walk(name, value):
            if named is None:
                yield
                continue
            found.setdefault(named, Mention(*named, name))
            if len(found) > MENTIONS_MAXIMUM:
                raise ApiError(Case.MALFORMED, f"A request may name at most {MENTIONS_MAXIMUM} ids.", param=name)
    return list(found.values())


def may_mention(text: bytes, marks: Marks) -> bool:
    """Whether a text has one of the marks, or an escape of a letter that needs none and so may hide a name."""
    return marks.search(text) is not None or (
        text.find(b"\\") >= 0 and text.find(b"\\u00") >= 0 and ESCAPED.search(text) is not None
    )


def _member_may_mention(members: Members, name: str, raw: bytes, marks: Marks) -> bool:
    return members.finds(marks, name, raw) or (
        raw.find(b"\\") >= 0 and raw.find(b"\\u00") >= 0 and members.finds(ESCAPED, name, raw)
    )


def _read(members: Members, name: str, raw: bytes) -> Any:
    if len(raw) > SMALL_BYTES and members.dense(name, raw, SEPARATORS_MAXIMUM):
        raise ApiError(Case.MALFORMED, f"'{name}' has too many parts.", param=name)
    try:
        return json.loads(raw, object_pairs_hook=_object)
    except (ValueError, RecursionError):
        raise ApiError(Case.MALFORMED, f"'{name}' cannot be read.", param=name) from None


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose members are there once: what hides behind another of its name would not be found here."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member is there twice")
    return members


def _walk(name: str, value: Any) -> Iterator[tuple[str, str] | None]:
    """Every kind and id in a top-level member's value; None where enough was looked at for one step."""
    if name in ITEMS and isinstance(value, list):
        for item in value:
            if isinstance(item, dict):
                yield from ((ITEM, id_) for id_ in _texts_of(item, "id"))
    pending: list[tuple[str, Any]] = [(name, value)]
    left = WALK_STEP
    while pending:
        left -= 1
        if not left:
            left = WALK_STEP
            yield None
        name, value = pending.pop()
        if (kind := NAMES.get(name) or NAMES.get(name.casefold())) is not None:
            for id_ in _named(value, objects_only=name.casefold() in OBJECTS_ONLY):
                yield kind, id_
        if isinstance(value, list):
            pending += [("", entry) for entry in value if isinstance(entry, dict | list)]
        elif isinstance(value, dict):
            if any(text.casefold() == "item_reference" for text in _texts_of(value, "type")):
                yield from ((ITEM, id_) for id_ in _texts_of(value, "id"))
            if name in OWN_NAMES_AROUND_PARTS:
                pending += [("", entry) for entry in value.values()]
            else:
                pending += [entry for entry in value.items() if entry[0] not in OWN_NAMES]


def _named(value: Any, *, objects_only: bool) -> Iterator[str]:
    """The ids in a member's value: a text, texts in a list, or an object's `id`."""
    if isinstance(value, dict):
        yield from _texts_of(value, "id")
    elif objects_only:
        return
    elif isinstance(value, str):
        yield value
    elif isinstance(value, list):
        yield from (entry for entry in value if isinstance(entry, str))


def _texts_of(value: dict[str, Any], wanted: str) -> Iterator[str]:
    """The texts of an object's members with this name, in whatever case."""
    for name, text in value.items():
        if len(name) == len(wanted) and isinstance(text, str) and name.casefold() == wanted:
            yield text
