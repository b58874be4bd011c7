"""Provider: a request's bytes in, the whole reply out; holds what a provider remembers between requests.

No I/O and no clock: time comes in. What the wire then does to the reply is `delivery`'s.
"""

import hashlib
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final

import orjson

from meterproxy.simulator.answers import (
    Answer,
    Circumstances,
    chat_answer,
    completion_answer,
    plain_chat,
    plain_completion,
)
from meterproxy.simulator.embeddings import embedding_answer, embedding_usage
from meterproxy.simulator.faults import NONE, Faults, read_faults
from meterproxy.simulator.keeper import Answer as KeptAnswer
from meterproxy.simulator.keeper import Asked
from meterproxy.simulator.kept import Kept, KeptResponse
from meterproxy.simulator.models import MODELS, Operation, find_model, model_document
from meterproxy.simulator.moderations import moderation_answer
from meterproxy.simulator.prompt import PromptCache, chat_prompt, text_prompts
from meterproxy.simulator.refusal import Refusal, simulated_refusal
from meterproxy.simulator.request import StreamOptions, check, read_document, stream_options, texts
from meterproxy.simulator.response_events import response_events
from meterproxy.simulator.responses import begun, compaction, input_items, make, prompt_of
from meterproxy.simulator.settings import SimulatorSettings
from meterproxy.simulator.stream import chat_events, completion_events
from meterproxy.simulator.usage import ABSENT, Told, told_usage

_MISREAD: Final = (AttributeError, KeyError, TypeError, ValueError)
"""What reading a request raises whose members are right and something within them is not."""
_JSON: Final = "application/json"
_EVENTS: Final = "text/event-stream; charset=utf-8"
_REQUESTS_LIMIT: Final = 10_000
_TOKENS_LIMIT: Final = 2_000_000
_SEEN_KEY_CHARACTERS: Final = 8

EventWriter = Callable[[Answer, StreamOptions, Told, Faults], tuple[bytes, ...]]
PlainWriter = Callable[[Answer], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply before anything happens to it on the wire; `events` is None for a plain one.

    `tokens` is how many tokens were generated: a plain reply takes as long as all of them.
    """

    status: int
    body: bytes = b""
    content_type: str = _JSON
    events: tuple[bytes, ...] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    tokens: int = 0
    faults: Faults = NONE


class Provider:
    """One simulated provider."""

    def __init__(self, settings: SimulatorSettings) -> None:
        self._settings = settings
        self._cache = PromptCache()
        self._replies = 0
        self._luck = random.Random(settings.seed)  # noqa: S311 - reproducible failures
        self._operations: Mapping[Operation, Callable[[dict[str, Any], float, Faults], Reply]] = {
            "chat": self._chat,
            "completion": self._completion,
            "embedding": self._embedding,
            "response": self._response,
            "compaction": self._compaction,
            "moderation": self._moderation,
        }
        self._kept = Kept()

    def reset(self) -> None:
        """Forget everything, as if just started."""
        self._cache.clear()
        self._kept.clear()
        self._replies = 0
        self._luck.seed(self._settings.seed)

    def answer(self, operation: Operation, headers: Mapping[str, str], body: bytes, now: float) -> Reply:
        """Answer one of the operations; `headers` is case-insensitive, `now` Unix time in seconds."""
        self._replies += 1
        faults = NONE
        try:
            self._authorize(headers)
            document = read_document(body)
            faults = read_faults(headers.get("x-simulate"), texts(document))
            self._refuse_if_told(faults, document)
            return self._operations[operation](document, now, faults)
        except Refusal as refusal:
            return _refused(refusal, faults)
        except _MISREAD:
            return _refused(_misread(), faults)

    def models(self, headers: Mapping[str, str]) -> Reply:
        """The list of models."""
        documents = [model_document(model, name) for name, model in MODELS.items()]
        return self._free(headers, lambda: {"object": "list", "data": documents})

    def model(self, headers: Mapping[str, str], name: str) -> Reply:
        """One model."""
        return self._free(headers, partial(_model_or_refuse, name))

    def about_kept(
        self,
        answer: Callable[[Kept, Asked], KeptAnswer],
        headers: Mapping[str, str],
        ids: tuple[str, ...],
        query: Mapping[str, str],
        body: bytes,
        now: float,
    ) -> Reply:
        """Answer a request about what is stored."""
        self._replies += 1
        faults = NONE
        try:
            self._authorize(headers)
            faults = read_faults(headers.get("x-simulate"), iter(()))
            self._refuse_if_told(faults, {})
            document = read_document(body) if body else {}
            made = answer(self._kept, Asked(ids, query, document, now, self._identifier()[:32]))
        except Refusal as refusal:
            return _refused(refusal, faults)
        except _MISREAD:
            return _refused(_misread(), faults)
        if isinstance(made, tuple):
            return Reply(200, content_type=_EVENTS, events=made, faults=faults)
        return Reply(200, orjson.dumps(made), faults=faults)

    def unknown(self, method: str, path: str) -> Reply:
        """What a path that does not exist answers."""
        self._replies += 1
        return _refused(Refusal(404, f"Invalid URL ({method} {path})"), NONE)

    def _free(self, headers: Mapping[str, str], make: Callable[[], dict[str, Any]]) -> Reply:
        """Answer what costs nothing."""
        self._replies += 1
        faults = NONE
        try:
            self._authorize(headers)
            faults = read_faults(headers.get("x-simulate"), iter(()))
            self._refuse_if_told(faults, {})
            return Reply(200, orjson.dumps(make()), faults=faults)
        except Refusal as refusal:
            return _refused(refusal, faults)

    def _authorize(self, headers: Mapping[str, str]) -> None:
        scheme, _, secret = headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not secret.strip():
            raise Refusal(
                401,
                "You didn't provide an API key. You need to provide your API key in an Authorization header using "
                "Bearer auth (i.e. Authorization: Bearer YOUR_KEY).",
            )
        if self._settings.key is not None and secret.strip() != self._settings.key:
            seen = secret.strip()[:_SEEN_KEY_CHARACTERS]
            message = f"Incorrect API key provided: {seen}***. You can find your API key in your account's settings."
            raise Refusal(401, message, code="invalid_api_key")

    def _refuse_if_told(self, faults: Faults, document: Mapping[str, Any]) -> None:
        if faults.status is not None:
            raise simulated_refusal(faults.status, faults.code, param=faults.param, retry_after=faults.retry_after)
        if faults.reject_stream_options and "stream_options" in document:
            message = "Unknown parameter: 'stream_options'."
            raise Refusal(400, message, param="stream_options", code="unknown_parameter")
        if self._luck.random() < self._settings.fail_rate:
            raise simulated_refusal(500, None, param=None, retry_after=None)

    # -- operations ------------------------------------------------------------------------------------------------

    def _chat(self, document: dict[str, Any], now: float, faults: Faults) -> Reply:
        model = check("chat", document)
        prompt = chat_prompt(document, model)
        around = self._circumstances("chatcmpl-", now, faults, cached=self._cache.read(model, prompt))
        answer = chat_answer(document, model, prompt, around)
        if document.get("store"):
            usage = {"usage": answer.usage}
            self._kept.keep_completion({**plain_chat(answer), **usage}, document)
        return _written(answer, document, faults, plain_chat, chat_events)

    def _completion(self, document: dict[str, Any], now: float, faults: Faults) -> Reply:
        model = check("completion", document)
        prompts = text_prompts(document.get("prompt") or "<|endoftext|>", model, "prompt")
        answer = completion_answer(document, model, prompts, self._circumstances("cmpl-", now, faults))
        return _written(answer, document, faults, plain_completion, completion_events)

    def _embedding(self, document: dict[str, Any], _now: float, faults: Faults) -> Reply:
        model = check("embedding", document)
        inputs = text_prompts(document["input"], model, "input")
        name = faults.served_model or model.served_name
        made = embedding_answer(document, model, inputs, self._settings.seed, name)
        return Reply(200, _plain(made, told_usage(embedding_usage(inputs), faults)), faults=faults)

    def _response(self, document: dict[str, Any], now: float, faults: Faults) -> Reply:
        model = check("response", document)
        asked = self._kept.referred(input_items(document, self._identifier()[:24]))
        items = [*self._kept.history(document), *asked]
        around = self._circumstances("resp_", now, faults, self._cache.read(model, prompt_of(document, items, model)))
        made = make(document, items, model, around)
        options = stream_options(document)
        background = document.get("background") is True
        obfuscated = options is None or options.include_obfuscation
        events = response_events(made, background=background, obfuscated=obfuscated, faults=faults)
        looks = faults.phases if background else 0
        self._kept.keep_response(KeptResponse(made.document, items, events, looks), document, asked)
        if options is not None and not faults.json_for_stream:
            return Reply(200, content_type=_EVENTS, events=events, tokens=made.tokens, faults=faults)
        shown = begun(made.document, "queued") if background else made.document
        return Reply(200, orjson.dumps(shown), tokens=0 if background else made.tokens, faults=faults)

    def _compaction(self, document: dict[str, Any], now: float, faults: Faults) -> Reply:
        model = check("compaction", document)
        asked = self._kept.referred(input_items(document, self._identifier()[:24]))
        items = [*self._kept.history(document), *asked]
        made = compaction(document, items, model, self._circumstances("resp_", now, faults))
        return Reply(200, orjson.dumps(made), faults=faults)

    def _moderation(self, document: dict[str, Any], _now: float, faults: Faults) -> Reply:
        model = check("moderation", document)
        return Reply(200, orjson.dumps(moderation_answer(document, model, self._identifier()[:32])), faults=faults)

    def _circumstances(self, prefix: str, now: float, faults: Faults, cached: int = 0) -> Circumstances:
        return Circumstances(prefix + self._identifier()[:29], int(now), self._settings.seed, cached, faults)

    def _identifier(self) -> str:
        return hashlib.sha256(f"{self._settings.seed}:{self._replies}".encode()).hexdigest()

    # -- headers ---------------------------------------------------------------------------------------------------

    def headers(self, reply: Reply, processing_ms: int) -> dict[str, str]:
        """The headers of a reply: OpenAI's, what the network before it adds, and the reply's own."""
        identifier = self._identifier()
        return {
            "Content-Type": reply.faults.content_type or reply.content_type,
            "x-request-id": f"req_{identifier[:32]}",
            "openai-organization": self._settings.organization,
            "openai-processing-ms": str(processing_ms),
            "openai-project": "proj_simulator",
            "openai-version": "2020-10-01",
            "x-ratelimit-limit-requests": str(_REQUESTS_LIMIT),
            "x-ratelimit-limit-tokens": str(_TOKENS_LIMIT),
            "x-ratelimit-remaining-requests": str(_REQUESTS_LIMIT - 1),
            "x-ratelimit-remaining-tokens": str(_TOKENS_LIMIT - reply.tokens),
            "x-ratelimit-reset-requests": "6ms",
            "x-ratelimit-reset-tokens": f"{reply.tokens * 60_000 // _TOKENS_LIMIT}ms",
            "Strict-Transport-Security": "max-age=31536000; includeSubDomains; preload",
            "X-Content-Type-Options": "nosniff",
            "Server": "cloudflare",
            "CF-RAY": f"{identifier[:16]}-SIM",
            "cf-cache-status": "DYNAMIC",
            "alt-svc": 'h3=":443"; ma=86400',
            "Set-Cookie": f"__cf_bm={identifier[:32]}; path=/; HttpOnly; Secure; SameSite=None",
            **reply.headers,
            **_named(reply.faults.header),
        }


def _misread() -> Refusal:
    return Refusal(400, "Invalid type: a value within the request is not what it should be.", code="invalid_type")


def _refused(refusal: Refusal, faults: Faults) -> Reply:
    return Reply(refusal.status, refusal.body(), headers=refusal.headers, faults=faults)


def _named(header: str | None) -> dict[str, str]:
    name, _, value = (header or "").partition(":")
    return {name.strip(): value.strip()} if name else {}


def _model_or_refuse(name: str) -> dict[str, object]:
    model = find_model(name)
    if model is None:
        raise Refusal(404, f"The model '{name}' does not exist", param="model", code="model_not_found")
    return model_document(model, name)


def _written(
    answer: Answer, document: Mapping[str, Any], faults: Faults, plain: PlainWriter, events: EventWriter
) -> Reply:
    """An answer in the form that was asked for."""
    told = told_usage(answer.usage, faults)
    tokens = int(answer.usage["completion_tokens"])
    options = stream_options(document)
    if options is None or faults.json_for_stream:
        return Reply(200, _plain(plain(answer), told), tokens=tokens, faults=faults)
    written = events(answer, options, told, faults)
    return Reply(200, content_type=_EVENTS, events=written, tokens=tokens, faults=faults)


def _plain(document: dict[str, Any], told: Told) -> bytes:
    return orjson.dumps(document if told is ABSENT else {**document, "usage": told})
