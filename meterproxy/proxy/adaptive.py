"""Adaptive holds: what a stream holds at first, and how more is held while it runs.

Rules
-----
- Only what can be cut off at any moment and shows all that it costs is held in part: one answer of text, as a stream of
  chat or completions, of a model that does not think unseen. Everything else holds its whole bound.
- What is not held is drawn from the account's exposure when the hold is placed, so that what all running answers may
  cost beyond what they hold never exceeds it.
- No event is passed on that might say more than is held: text has at least as many bytes as tokens. More is asked for
  when half a step is left; where nothing is left of what can be lent the text is counted, and where that does not help
  either the stream ends.
"""

import asyncio
import re
from collections import OrderedDict, deque
from typing import Any, Final
from uuid import UUID

import orjson
from msgspec.structs import replace

from meterproxy.core.bound import Bound, ModelFacts, RequestFacts
from meterproxy.core.hold import Hold, HoldRequest
from meterproxy.core.price import Price
from meterproxy.core.usage import Usage
from meterproxy.proxy.meter import Reading
from meterproxy.proxy.ports import Ledger, TokenCounter
from meterproxy.proxy.token_counts import at_most

OPERATIONS: Final = frozenset({"chat", "completion"})
FIRST_TOKENS: Final = 1024
"""What an answer is taken to need of which nothing is known."""
LEAST_TOKENS: Final = 256
MARGIN_TOKENS: Final = 64
"""What an answer may cost beside its text: names of roles, marks of its end, the frame of a tool call."""
TAIL_BYTES: Final = 1 << 20
"""How much of an event may be waited for; beyond that all of its bytes count as text."""
ATTEMPTS: Final = 3
"""How often more is borrowed for a stream that somebody else then was quicker to hold."""
SHORT_STEPS: Final = 8
"""How many short steps make one."""
REMEMBERED: Final = 4096
"""Pairs of key and model whose answers are remembered."""
ANSWERS: Final = 32
USUAL_SHARE: Final = 0.9
"""The share of remembered answers that a first hold should have covered."""

_TEXT: Final = re.compile(
    rb'"[a-z_]*(?:content|text|refusal|reasoning|thinking|arguments|input|name)"\s*:\s*"([^"\\]*+(?:\\.[^"\\]*+)*+)"'
)
"""Whatever a provider may bill as output in an event of a stream; all that `texts` counts is among it."""


class Usual:
    """How long the answers to a key from a model usually are, as far as one worker has seen."""

    def __init__(self) -> None:
        self._lengths: OrderedDict[tuple[UUID, str], deque[int]] = OrderedDict()

    def note(self, key_id: UUID, model: str, output_tokens: int) -> None:
        """Remember one answer."""
        lengths = self._lengths.setdefault((key_id, model), deque(maxlen=ANSWERS))
        lengths.append(output_tokens)
        self._lengths.move_to_end((key_id, model))
        if len(self._lengths) > REMEMBERED:
            self._lengths.popitem(last=False)

    def tokens(self, key_id: UUID, model: str) -> int:
        """What most of the remembered answers did not exceed, and a quarter more."""
        lengths = self._lengths.get((key_id, model))
        if not lengths:
            return FIRST_TOKENS
        usual = sorted(lengths)[int((len(lengths) - 1) * USUAL_SHARE)]
        return max(usual + usual // 4, LEAST_TOKENS) + MARGIN_TOKENS


def may_be_held_in_part(request: HoldRequest, facts: RequestFacts, model: ModelFacts) -> bool:
    """Whether a request is of the kind whose answer can be cut off anywhere and hides nothing."""
    bound = request.bound
    return (
        request.stream
        and request.operation in OPERATIONS
        and request.key.account.exposure is not None
        and not model.reasoning
        and facts.choices == facts.prompts == facts.passes == 1
        and not (facts.hosted_tools or facts.web_search or facts.prediction_bytes)
        and not (bound.output_audio or bound.output_image)
    )


def in_part(request: HoldRequest, step_tokens: int) -> HoldRequest:
    """The same request with its input and one step of output held, and the rest exposed."""
    held = _nanos(request.price, request.bound, step_tokens, request.markup_ppm)
    return replace(request, hold_nanos=held, exposed_nanos=request.hold_nanos - held)


def _nanos(price: Price, bound: Bound, output_tokens: int, markup_ppm: int) -> int:
    return price.hold_nanos(replace(bound, output_tokens=min(output_tokens, bound.output_tokens)), markup_ppm)


class Extension:
    """Holds more for one stream as it grows; `tells_usage`: its client wants to hear at the end what it used."""

    def __init__(
        self,
        ledger: Ledger,
        hold: Hold,
        request: HoldRequest,
        step_tokens: int,
        counter: TokenCounter,
        count_seconds: float,
        *,
        tells_usage: bool,
    ) -> None:
        self._counter = counter
        self._count_seconds = count_seconds
        self._ledger = ledger
        self._hold = hold
        self._price, self._markup_ppm, self._bound = request.price, request.markup_ppm, request.bound
        self._step = step_tokens
        self._held = min(step_tokens, request.bound.output_tokens)
        self._said = MARGIN_TOKENS
        self._uncounted: list[bytes] = []
        self._tail = b""
        self._room: asyncio.Task[bool] | None = None
        self._tells_usage = tells_usage

    @property
    def held_tokens(self) -> int:
        """How many tokens of output are held: no more were passed on."""
        return self._held

    def takes(self, piece: bytes) -> bool:
        """Read a piece before it is passed on; whether all that it says is held. Asks for more in time."""
        if self._held >= self._bound.output_tokens:
            return True
        self._read(piece)
        if self._said > self._held - self._step // 2:
            self._ask()
        return self._said <= self._held

    async def grown(self) -> bool:
        """Wait until all that was read is held; False where it cannot be."""
        for _ in range(ATTEMPTS):
            if self._said <= self._held or self._grow():
                return True
            await self._count()
            if self._said <= self._held:
                return True
            room, self._room = self._room, None
            if room is None or (room.done() and not room.result()):
                room = self._make_room()  # what was refused a while ago may have come back
            if not await room:
                return False
        return self._grow()

    async def whole(self) -> bool:
        """Hold all of the bound, for an answer that cannot be cut off; False where that cannot be."""
        for _ in range(ATTEMPTS):
            if self.holds_all() or not await self._make_room():
                break
        return self.holds_all()

    def holds_all(self) -> bool:
        """The same from what this worker has leased already."""
        self._said = max(self._said, self._bound.output_tokens)
        return self._held >= self._bound.output_tokens or self._grow()

    def terminal_events(self, reading: Reading, usage: Usage) -> bytes:
        """How a stream ends of which no more could be held: as one whose maximum was reached."""
        subject = self._hold.subject
        chat = subject.operation == "chat"
        head: dict[str, Any] = {
            "id": reading.provider_id or str(subject.request_id),
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": subject.occurred_us // 1_000_000,
            "model": reading.served_model or subject.model,
        }
        said: dict[str, Any] = {"delta": {}} if chat else {"text": ""}
        chunks = [{**head, "choices": [{"index": 0, **said, "logprobs": None, "finish_reason": "length"}]}]
        if self._tells_usage:
            chunks.append({**head, "choices": [], "usage": _told(usage)})
        return b"".join([b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks]) + b"data: [DONE]\n\n"

    def close(self) -> None:
        """Ask for nothing more."""
        if self._room is not None:
            self._room.cancel()

    def _read(self, piece: bytes) -> None:
        """Count the text of whole lines; the rest waits for its end, unless that is far away."""
        read = self._tail + piece
        end = max(read.rfind(b"\n"), read.rfind(b"\r")) + 1
        texts = _TEXT.findall(read, 0, end)
        self._said += sum([len(text) for text in texts])
        self._uncounted += texts
        self._tail = read[end:]
        if len(self._tail) > TAIL_BYTES:
            self._said += len(self._tail)
            self._tail = b""

    async def _count(self) -> None:
        """Have the text counted whose bytes stood for its tokens so far."""
        texts, self._uncounted = self._uncounted, []
        tokens = await at_most(
            self._counter, self._hold.subject.model, ["".join(map(_unescaped, texts))], self._count_seconds
        )
        if tokens is None:
            self._uncounted = texts
        else:
            self._said -= max(sum(map(len, texts)) - tokens, 0)

    def _ask(self) -> None:
        """Hold a step more, or have it borrowed; what was refused is asked for again when it is needed."""
        if self._room is not None and not (self._room.done() and self._room.result()):
            return
        self._room = None if self._grow() else self._make_room()

    def _make_room(self) -> "asyncio.Task[bool]":
        wanted = self._beyond(self._step // SHORT_STEPS)
        return asyncio.ensure_future(self._ledger.make_room(self._hold, self._lacking(wanted)))

    def _grow(self) -> bool:
        """Hold a step more, or a short one where that is all there is."""
        for step in (self._step, self._step // SHORT_STEPS):
            wanted = self._beyond(step)
            if self._ledger.extend(self._hold, self._lacking(wanted)):
                self._held = wanted
                return True
        return False

    def _beyond(self, step: int) -> int:
        """How many tokens are to be held next: so many beyond what was said."""
        return min(max(self._said, self._held) + step, self._bound.output_tokens)

    def _lacking(self, tokens: int) -> int:
        """How much more would have to be held for so many tokens of output, in nanodollars."""
        return _nanos(self._price, self._bound, tokens, self._markup_ppm) - self._hold.subject.hold_nanos


def _unescaped(text: bytes) -> str:
    """A JSON string's text, as it stands where it cannot be read."""
    try:
        return str(orjson.loads(b'"' + text + b'"'))
    except orjson.JSONDecodeError:
        return text.decode("utf-8", "replace")


def _told(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.input_tokens,
        "completion_tokens": usage.output_tokens,
        "total_tokens": usage.input_tokens + usage.output_tokens,
    }
