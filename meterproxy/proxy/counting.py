"""Counting: what an exchange used where its provider did not say, or said what cannot be.

Rules
-----
- The model's own tokenizer makes the numbers `counted`; another tokenizer, missing text, or anything that is no text
  makes them `estimated`.
- Without the tokenizer the bytes stand in, which is more and never less; nothing is ever *estimated* above the bound.
  What the tokenizer counts in an answer that was delivered is booked as it is, above the bound as an overrun. Of what
  is not held whole, the bound is what was held: no more was passed on.
- What a model thinks without saying it cannot be counted; the row is flagged where that may be missing.
- An ending waits for the tokenizer for a bounded time.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import msgspec

from meterproxy.core.bound import Bound, RequestFacts
from meterproxy.core.usage import Usage, UsageSource
from meterproxy.proxy.abridged import Abridged
from meterproxy.proxy.accept import Asked
from meterproxy.proxy.adaptive import Extension
from meterproxy.proxy.authorize import estimated_input
from meterproxy.proxy.capture import Measured
from meterproxy.proxy.large_body import expanding
from meterproxy.proxy.meter import Reading
from meterproxy.proxy.ports import TokenCounter
from meterproxy.proxy.request_texts import request_texts
from meterproxy.proxy.route import Route
from meterproxy.proxy.token_counts import BYTES_PER_TOKEN, counted_within
from meterproxy.proxy.turns import Turns

TEMPLATE_TOKENS_PER_TEXT: Final = 4
TEMPLATE_TOKENS: Final = 3
"""What OpenAI's chat template adds to each message and to each answer. Source: OpenAI's cookbook on counting tokens."""

HIDDEN: Final = ("hidden_output_not_counted",)
"""The flag of a count that lacks what the model thought."""


class AnswerTexts(NamedTuple):
    """What an answer said; `unread_bytes` are those that could not be kept or read as text.

    `large` is what the texts were read from, where that was abridged.
    """

    texts: list[str]
    unread_bytes: int = 0
    large: Abridged | None = None


class Counting(msgspec.Struct, eq=False):
    """Counts one exchange, for `seconds` at most; `extension` is there where not all of the bound is held."""

    asked: Asked
    route: Route
    facts: RequestFacts
    bound: Bound
    counter: TokenCounter
    seconds: float
    turns: Turns
    extension: Extension | None = None

    @property
    def limited(self) -> bool:
        """Whether the request says itself how long its answers may be; with tools in between nobody is so sure."""
        return self.facts.own_maximum is not None and not self.facts.hosted_tools

    @property
    def _hidden(self) -> tuple[str, ...]:
        return HIDDEN if self.route.facts.reasoning and self.bound.output_tokens else ()

    @staticmethod
    def told(reading: Reading) -> Measured | None:
        """The usage that the provider told, None where it told none."""
        return None if reading.usage is None else Measured(reading.usage, UsageSource.PROVIDER, reading.flags)

    async def measure(self, reading: Reading, read_texts: Callable[[], AnswerTexts]) -> Measured:
        """The usage that the provider told, or else what its request and answer come to."""
        told = self.told(reading)
        if told is not None:
            return told
        answer = read_texts()
        if answer.large is not None:
            answer = answer._replace(texts=await self.turns.take(answer.large.expanding(answer.texts)))
        input_tokens, exact_input = await self._input()
        output_tokens, exact_output = await self._output(answer)
        exact = exact_input and exact_output and not answer.unread_bytes
        source = UsageSource.COUNTED if exact else UsageSource.ESTIMATED
        usage = Usage(
            input=min(input_tokens, self.bound.input_tokens),
            output=output_tokens,
            requests=1,
            web_searches=reading.web_searches,
            file_searches=reading.file_searches,
        )
        return Measured(usage, source, (*reading.flags, *self._hidden))

    def estimate(self, output_tokens: int) -> Usage:
        """What was used so far, without asking anybody: of the input a middling guess, of the output what is given."""
        return self._usage(estimated_input(self.facts, self.bound), output_tokens)

    def known(self, reading: Reading, output_tokens: int) -> Measured:
        """The usage that the provider told, or else an estimate, at once."""
        told = self.told(reading)
        if told is not None:
            return told
        usage = self.estimate(output_tokens)._replace(
            web_searches=reading.web_searches, file_searches=reading.file_searches
        )
        return Measured(usage, UsageSource.ESTIMATED, (*reading.flags, *self._hidden))

    def _usage(self, input_tokens: int, output_tokens: int) -> Usage:
        return Usage(
            input=min(input_tokens, self.bound.input_tokens),
            output=min(output_tokens, self._most_output()),
            requests=1,
        )

    def _most_output(self) -> int:
        return self.bound.output_tokens if self.extension is None else self.extension.held_tokens

    def _beside_text(self) -> int:
        return self.bound.input_audio_tokens + self.bound.input_image_tokens

    async def _input(self) -> tuple[int, bool]:
        operation = self.asked.endpoint.operation
        texts, known_tokens = await self.turns.take(request_texts(operation, self.asked.members))
        counted = await self._count(await self.turns.take(expanding(self.asked.members, texts)))
        beside = self._beside_text()
        if counted is None:
            return self.facts.text_bytes + beside, False
        tokens, exact = counted
        if operation in {"chat", "response"}:
            tokens += TEMPLATE_TOKENS_PER_TEXT * len(texts) + TEMPLATE_TOKENS
        return tokens + known_tokens + beside, exact and not beside and not self.facts.outside

    async def _output(self, answer: AnswerTexts) -> tuple[int, bool]:
        counted = await self._count(answer.texts)
        if counted is None:
            text_bytes = sum(len(text.encode("utf-8", "replace")) for text in answer.texts)
            return min(text_bytes + answer.unread_bytes, self._most_output()), False
        tokens, exact = counted
        unread_tokens = min(answer.unread_bytes // BYTES_PER_TOKEN, max(self._most_output() - tokens, 0))
        return tokens + unread_tokens, exact

    async def _count(self, texts: list[str]) -> tuple[int, bool] | None:
        if not any(texts):
            return 0, True
        return await counted_within(self.counter, self.route.model, texts, self.seconds / 2)
