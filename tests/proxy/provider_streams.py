"""Streams as providers send them, written from their documentation: what is only there because usage was asked for.

`⟦…⟧` encloses what a stream has that was asked for usage and must not have for a client that did not ask; a line break
within it belongs to it. Two things no reader of bytes can know, and both are invisible to OpenAI's SDKs: providers that
write `"usage":null` or a usage event without being asked (DeepSeek, Together and DeepInfra, OpenRouter of late) lose
them like all others.
"""

import re
from typing import Final, NamedTuple

from meterproxy.core.usage import Usage

_ONLY_ASKED: Final = re.compile("⟦(.*?)⟧", re.DOTALL)


class Told(NamedTuple):
    """A provider's stream: with the option, without it, and what it says was used."""

    asked: bytes
    unasked: bytes
    usage: Usage | None


def _told(text: str, usage: Usage | None) -> Told:
    text = text.lstrip("\n")
    return Told(text.replace("⟦", "").replace("⟧", "").encode(), _ONLY_ASKED.sub("", text).encode(), usage)


AZURE: Final = """
data: {"choices":[],"created":0,"id":"","model":"","object":"","prompt_filter_results":[{"prompt_index":0,"content_filter_results":{"hate":{"filtered":false,"severity":"safe"},"jailbreak":{"filtered":false,"detected":false}}}]⟦,"usage":null⟧}

data: {"choices":[{"content_filter_results":{},"delta":{"content":"","refusal":null,"role":"assistant"},"finish_reason":null,"index":0,"logprobs":null}],"created":1746000000,"id":"chatcmpl-A1","model":"gpt-4o-2024-11-20","object":"chat.completion.chunk","system_fingerprint":"fp_ee1d74bde0"⟦,"usage":null⟧}

data: {"choices":[{"content_filter_results":{"hate":{"filtered":false,"severity":"safe"}},"delta":{"content":"Grüße \\"usage\\":null"},"finish_reason":null,"index":0,"logprobs":null}],"created":1746000000,"id":"chatcmpl-A1","model":"gpt-4o-2024-11-20","object":"chat.completion.chunk","system_fingerprint":"fp_ee1d74bde0"⟦,"usage":null⟧}

data: {"choices":[{"content_filter_offsets":{"check_offset":44,"start_offset":44,"end_offset":49},"content_filter_results":{},"finish_reason":null,"index":0}],"created":0,"id":"","model":"","object":""⟦,"usage":null⟧}

data: {"choices":[{"content_filter_results":{},"delta":{},"finish_reason":"stop","index":0,"logprobs":null}],"created":1746000000,"id":"chatcmpl-A1","model":"gpt-4o-2024-11-20","object":"chat.completion.chunk","system_fingerprint":"fp_ee1d74bde0"⟦,"usage":null⟧}

⟦data: {"choices":[],"created":1746000000,"id":"chatcmpl-A1","model":"gpt-4o-2024-11-20","object":"chat.completion.chunk","system_fingerprint":"fp_ee1d74bde0","usage":{"completion_tokens":4,"completion_tokens_details":{"accepted_prediction_tokens":0,"audio_tokens":0,"reasoning_tokens":0,"rejected_prediction_tokens":0},"prompt_tokens":9,"prompt_tokens_details":{"audio_tokens":0,"cached_tokens":0},"total_tokens":13}}

⟧data: [DONE]

"""

MISTRAL: Final = """
data: {"id":"f798ebd5c41a45d88bb0","object":"chat.completion.chunk","created":1732548656,"model":"mistral-large-latest","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}

data: {"id":"f798ebd5c41a45d88bb0","object":"chat.completion.chunk","created":1732548656,"model":"mistral-large-latest","choices":[{"index":0,"delta":{"content":"Bonjour"},"finish_reason":null}],"p":"abcdefgh"}

data: {"id":"f798ebd5c41a45d88bb0","object":"chat.completion.chunk","created":1732548656,"model":"mistral-large-latest","choices":[{"index":0,"delta":{"content":""},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"total_tokens":13,"completion_tokens":4}}

data: [DONE]

"""

GROQ: Final = """
data: {"id":"chatcmpl-b1","object":"chat.completion.chunk","created":1732550000,"model":"llama-3.3-70b-versatile","system_fingerprint":"fp_f8b414701e","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"x_groq":{"id":"req_01j"}}

data: {"id":"chatcmpl-b1","object":"chat.completion.chunk","created":1732550000,"model":"llama-3.3-70b-versatile","system_fingerprint":"fp_f8b414701e","choices":[{"index":0,"delta":{"content":"Hi"},"logprobs":null,"finish_reason":null}]}

data: {"id":"chatcmpl-b1","object":"chat.completion.chunk","created":1732550000,"model":"llama-3.3-70b-versatile","system_fingerprint":"fp_f8b414701e","choices":[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}],"x_groq":{"id":"req_01j","usage":{"queue_time":0.019,"prompt_tokens":9,"prompt_time":0.002,"completion_tokens":4,"completion_time":0.016,"total_tokens":13,"total_time":0.018}}}

⟦data: {"id":"chatcmpl-b1","object":"chat.completion.chunk","created":1732550000,"model":"llama-3.3-70b-versatile","system_fingerprint":"fp_f8b414701e","choices":[],"usage":{"queue_time":0.019,"prompt_tokens":9,"prompt_time":0.002,"completion_tokens":4,"completion_time":0.016,"total_tokens":13,"total_time":0.018},"x_groq":{"id":"req_01j","usage":{"queue_time":0.019,"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}}

⟧data: [DONE]

"""

VLLM: Final = """
data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1745000000,"model":"meta-llama/Llama-3.1-8B","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}]}

data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1745000000,"model":"meta-llama/Llama-3.1-8B","choices":[{"index":0,"delta":{"content":"Hello","tool_calls":[]},"logprobs":null,"finish_reason":null}]}

data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1745000000,"model":"meta-llama/Llama-3.1-8B","choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop","stop_reason":null}]}

⟦data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1745000000,"model":"meta-llama/Llama-3.1-8B","choices":[],"usage":{"prompt_tokens":9,"total_tokens":13,"completion_tokens":4}}

⟧data: [DONE]

"""

VLLM_CONTINUOUS: Final = """
data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1745000000,"model":"meta-llama/Llama-3.1-8B","choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":9,"total_tokens":9,"completion_tokens":0}}

data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1745000000,"model":"meta-llama/Llama-3.1-8B","choices":[{"index":0,"delta":{"content":"Hello"},"logprobs":null,"finish_reason":null}],"usage":{"prompt_tokens":9,"total_tokens":10,"completion_tokens":1}}

data: {"id":"chatcmpl-7","object":"chat.completion.chunk","created":1745000000,"model":"meta-llama/Llama-3.1-8B","choices":[{"index":0,"delta":{"content":""},"logprobs":null,"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"total_tokens":13,"completion_tokens":4}}

data: [DONE]

"""

OPENROUTER: Final = """
: OPENROUTER PROCESSING

: OPENROUTER PROCESSING

data: {"id":"gen-1746000000-x","provider":"Anthropic","model":"anthropic/claude-sonnet-4","object":"chat.completion.chunk","created":1746000000,"choices":[{"index":0,"delta":{"role":"assistant","content":"Hi"},"finish_reason":null,"native_finish_reason":null,"logprobs":null}]}

: OPENROUTER PROCESSING

data: {"id":"gen-1746000000-x","provider":"Anthropic","model":"anthropic/claude-sonnet-4","object":"chat.completion.chunk","created":1746000000,"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":"stop","native_finish_reason":"end_turn","logprobs":null}]}

⟦data: {"id":"gen-1746000000-x","provider":"Anthropic","model":"anthropic/claude-sonnet-4","object":"chat.completion.chunk","created":1746000000,"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13,"cost":0.000093,"is_byok":false,"prompt_tokens_details":{"cached_tokens":0,"audio_tokens":0},"cost_details":{"upstream_inference_cost":null},"completion_tokens_details":{"reasoning_tokens":0}}}

⟧data: [DONE]

"""

DEEPSEEK: Final = """
: keep-alive

data: {"id":"1f633d8b","choices":[{"index":0,"delta":{"content":"","role":"assistant","reasoning_content":null},"finish_reason":null,"logprobs":null}],"created":1718345013,"model":"deepseek-chat","system_fingerprint":"fp_a49d71b8a1","object":"chat.completion.chunk"⟦,"usage":null⟧}

data: {"id":"1f633d8b","choices":[{"index":0,"delta":{"content":"你好","role":"assistant"},"finish_reason":null,"logprobs":null}],"created":1718345013,"model":"deepseek-chat","system_fingerprint":"fp_a49d71b8a1","object":"chat.completion.chunk"⟦,"usage":null⟧}

: keep-alive

data: {"id":"1f633d8b","choices":[{"index":0,"delta":{"content":"","role":null},"finish_reason":"stop","logprobs":null}],"created":1718345013,"model":"deepseek-chat","system_fingerprint":"fp_a49d71b8a1","object":"chat.completion.chunk","usage":{"completion_tokens":4,"prompt_tokens":9,"total_tokens":13,"prompt_tokens_details":{"cached_tokens":0},"prompt_cache_hit_tokens":0,"prompt_cache_miss_tokens":9}}

data: [DONE]

"""

TOGETHER: Final = """
data: {"id":"oD1","object":"chat.completion.chunk","created":1745000000,"choices":[{"index":0,"text":"The","logprobs":null,"finish_reason":null,"seed":null,"delta":{"token_id":791,"role":"assistant","content":"The","tool_calls":null}}],"model":"meta-llama/Llama-3.3-70B-Instruct-Turbo"⟦,"usage":null⟧}

data: {"id":"oD1","object":"chat.completion.chunk","created":1745000000,"choices":[{"index":0,"text":"","logprobs":null,"finish_reason":"stop","seed":17208951187068963000,"delta":{"token_id":128009,"role":"assistant","content":"","tool_calls":null}}],"model":"meta-llama/Llama-3.3-70B-Instruct-Turbo","usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}}

data: [DONE]

"""

DEEPINFRA: Final = """
data: {"id": "chatcmpl-R", "object": "chat.completion.chunk", "created": 1732684855, "model": "meta-llama/Meta-Llama-3.1-70B-Instruct", "choices": [{"index": 0, "delta": {"role": "assistant", "content": "", "tool_calls": null}, "finish_reason": null}]⟦, "usage": null⟧}

data: {"id": "chatcmpl-R", "object": "chat.completion.chunk", "created": 1732684855, "model": "meta-llama/Meta-Llama-3.1-70B-Instruct", "choices": [{"index": 0, "delta": {"content": "oca", "tool_calls": null}, "finish_reason": null}]⟦, "usage": null⟧}

data: {"id": "chatcmpl-R", "object": "chat.completion.chunk", "created": 1732684855, "model": "meta-llama/Meta-Llama-3.1-70B-Instruct", "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": {"prompt_tokens": 9, "total_tokens": 13, "completion_tokens": 4, "estimated_cost": 0.0000036}}

data: [DONE]

"""

XAI: Final = """
data: {"id":"e409f4cc","object":"chat.completion.chunk","created":1732551988,"model":"grok-beta","choices":[{"index":0,"delta":{"content":"Coca","role":"assistant"}}],"usage":{"prompt_tokens":9,"completion_tokens":1,"total_tokens":10,"prompt_tokens_details":{"text_tokens":9,"audio_tokens":0,"image_tokens":0,"cached_tokens":0}},"system_fingerprint":"fp_6ca29cf396"}

data: {"id":"e409f4cc","object":"chat.completion.chunk","created":1732551988,"model":"grok-beta","choices":[{"index":0,"delta":{"content":"-Cola","role":"assistant"},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13,"prompt_tokens_details":{"text_tokens":9,"audio_tokens":0,"image_tokens":0,"cached_tokens":0}},"system_fingerprint":"fp_6ca29cf396"}

data: [DONE]

"""

ODDITIES: Final = """
: a comment, "usage":null}

retry: 1000

event: message
id: 7
data: {"id":"o1","model":"m","choices":[{"index":0,"delta":{"content":"a\u2028b\u2029c\u0085d 😀"}}]⟦,"usage":null⟧}

id: 8
data: {"id":"o1","model":"m",
data: "choices":[{"index":0,"delta":{"content":"two lines"}}],"usage":null}

data
data:
event: ping

data:{"id":"o1","model":"m","choices":[{"index":0,"delta":{"content":"no space"}}]⟦,"usage":null⟧}

data:  {"choices":[{"delta":{"content":"} \\"usage\\":null}"},"usage":null}],"usage_extra":null⟦,"usage":null⟧,"obfuscation":"ab\\"c"}

data: {⟦"usage":null,⟧"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}

⟦data: {"usage":{"prompt_tokens":9,"completion_tokens":4},"choices":[ ],"id":"o1"}

⟧data:[DONE]"""

_USED: Final = Usage(input=9, output=4, requests=1)
STREAMS: Final = {
    "azure": _told(AZURE, _USED),
    "mistral": _told(MISTRAL, _USED),
    "groq": _told(GROQ, _USED),
    "vllm": _told(VLLM, _USED),
    "vllm, continuous": _told(VLLM_CONTINUOUS, _USED),
    "openrouter": _told(OPENROUTER, _USED),
    "deepseek": _told(DEEPSEEK, _USED),
    "together": _told(TOGETHER, _USED),
    "deepinfra": _told(DEEPINFRA, _USED),
    "xai": _told(XAI, _USED),
    "oddities": _told(ODDITIES, _USED),
}
