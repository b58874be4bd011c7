r"""Ordinary events: recognises the events that only carry one more piece of text, at the price of a few comparisons.

Most events of a stream differ from the last in one string: the piece of text (and in padding that hides its length).
A template learnt from one event that was read in full is what stays the same. An event that fits it has no quote and
no line end in its gaps, so whatever was true of the first event's structure is true of it: it has no usage, no error,
no tool's name, no end, and it is edited as the first one was.

Rules
-----
- Recognition is exact: what fits a template is byte for byte the template with other text. Anything else is left to
  the reader that looks closely.
- Only events of one `data:` line of JSON that end in `\n\n` are learnt.
"""

import re
from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

TEMPLATES_KEPT: Final = 4
"""Templates of one stream: choices that come in turn need one each."""

BETWEEN: Final = b"\0"
"""Stands between texts that are kept; it occurs in no JSON."""

_UNFIT: Final = b'"\r\n'
"""What no text of an ordinary event has in it."""
_GAP: Final = re.compile(
    rb'"(?:content|text|arguments|reasoning_content|reasoning|input)":[ ]?"([^"\\\r\n]*+)"',
)
_ANY: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_PADDING: Final = re.compile(rb'"obfuscation":[ ]?"([^"\\\r\n]*+)"')


class Template(NamedTuple):
    """What events have in common around their gaps: `head`, text, `middle`, padding, `tail`, and what goes on instead.

    Without padding the middle is the end, and `tail` is empty. `edited` says whether what goes on differs.
    """

    head: bytes
    middle: bytes
    tail: bytes
    head_size: int
    middle_size: int
    tail_size: int
    edited: bool
    new_head: bytes
    new_middle: bytes
    new_tail: bytes
    between: bytes
    """What stands between the texts of two events in a row, as they come and as they go on."""
    new_between: bytes

    def event(self, text: bytes) -> bytes:
        """The event as it came with this text (as JSON writes it), without padding."""
        return b"".join((self.head, text, self.middle, self.tail))


class OrdinaryEvents:
    """The templates of one stream."""

    __slots__ = ("_keep", "_templates")

    def __init__(self, keep: Callable[[Template, bytes], None]) -> None:
        self._templates: list[Template] = []
        self._keep = keep

    def learn(self, event: bytes, edited: bytes) -> None:
        """Take an event without marks as a template, given what it was edited to."""
        if _is_one_line_of_json(event):
            template = _template(event, edited)
            if template is not None and template not in self._templates:
                self._templates.insert(0, template)
                del self._templates[TEMPLATES_KEPT:]

    def pass_by(self, events: bytes) -> tuple[int, int, bytes]:
        """Read the events that fit, up to the first that does not; their texts are handed to `keep`, one
        or several with `BETWEEN` between them.

        Returns where they end, how many they are, and what goes on of them.
        """
        position, size, count = 0, len(events), 0
        forwarded: list[bytes] = []
        for template in self._templates:
            if events.startswith(template[0]):
                position, count = self._pass_alike(template, events, forwarded)
                break
        while position < size:
            for template in self._templates:
                if events.startswith(template[0], position):
                    end = self._fit(template, events, position, forwarded)
                    break
            else:
                break
            if not end:
                break
            count += 1
            position = end
        if forwarded:
            return position, count, b"".join(forwarded)
        return position, count, events if position == size else events[:position]

    def _pass_alike(self, template: Template, events: bytes, forwarded: list[bytes]) -> tuple[int, int]:
        """Read all events at once that fit a template without padding, with whose head the bytes begin.

        Returns where they end and how many they are; none where anything is in doubt.
        """
        if template.tail:
            return 0, 0
        texts = events[template.head_size :].split(template.between)
        rest = texts.pop()
        gap_end = rest.find(b'"')
        if rest.startswith(template.middle, gap_end):
            texts.append(rest[:gap_end])
            end = len(events) - len(rest) + gap_end + template.middle_size
        else:
            end = len(events) - len(rest) - template.head_size
        kept = BETWEEN.join(texts)
        if not texts or len(kept) != len(kept.translate(None, _UNFIT)):
            return 0, 0
        self._keep(template, kept)
        if template.edited:
            forwarded += (template.new_head, template.new_between.join(texts), template.new_middle)
        return end, len(texts)

    def _fit(self, template: Template, events: bytes, position: int, forwarded: list[bytes]) -> int:
        """Where the event at a position, which begins with the template's head, ends if it fits, else 0."""
        _, middle, tail, head_size, middle_size, tail_size, edited, new_head, new_middle, new_tail, _, _ = template
        start = position + head_size
        gap_end = events.find(b'"', start)
        if not events.startswith(middle, gap_end):
            return 0
        text = events[start:gap_end]
        end = gap_end + middle_size
        padding = b""
        if tail:
            padding_end = events.find(b'"', end)
            if not events.startswith(tail, padding_end):
                return 0
            padding = events[end:padding_end]
            end = padding_end + tail_size
        if events.find(b"\n", start) != end - 2 or events.find(b"\r", start, end) >= 0:
            return 0
        if edited or forwarded:
            if not forwarded:
                forwarded.append(events[:position])
            forwarded += (new_head, text, new_middle, padding, new_tail)
        self._keep(template, text)
        return end


def _is_one_line_of_json(event: bytes) -> bool:
    """Whether an event is one `data:` line of JSON: of anything else, other text may have another structure."""
    if (
        not event.startswith(b"data:")
        or not event.endswith(b"\n\n")
        or event.count(b"\n") != 2
        or event.find(b"\r") >= 0
    ):
        return False
    try:
        _ANY.decode(event[5:-2])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return False
    return True


def _template(event: bytes, edited: bytes) -> Template | None:
    old, new = _parts(event), _parts(edited)
    if old is None or new is None or bool(old[2]) != bool(new[2]):
        return None
    (head, middle, tail), (new_head, new_middle, new_tail) = old, new
    between, new_between = middle + tail + head, new_middle + new_tail + new_head
    return Template(*old, len(head), len(middle), len(tail), event != edited, *new, between, new_between)


def _parts(event: bytes) -> tuple[bytes, bytes, bytes] | None:
    """An event's bytes before, between and after its gaps; None where it has no text."""
    gap = _GAP.search(event)
    if gap is None:
        return None
    start, end = gap.span(1)
    padding = _PADDING.search(event, end)
    if padding is None:
        return event[:start], event[end:], b""
    return event[:start], event[end : padding.start(1)], event[padding.end(1) :]
