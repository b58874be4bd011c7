"""Bounds: never below what an answer may consume."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproxy.core.bound import (
    HOSTED_TOOLS,
    OPERATION_BOUNDS,
    TEMPLATE_TOKENS,
    Bound,
    ModelFacts,
    RequestFacts,
    audio_tokens,
    bound_of,
    picture_tokens,
    variants_of,
)
from meterproxy.core.usage import OTHER_KINDS

FACTS = ModelFacts(context_tokens=128_000, max_output_tokens=16_384)

CASES = """
# operation | request                                              | input  | output
chat        | text_bytes=1000                                      | 2024   | 16384
chat        | text_bytes=1000 own_maximum=100                      | 2024   | 100
chat        | text_bytes=1000 own_maximum=0                        | 2024   | 0
chat        | text_bytes=1000 own_maximum=100 choices=3            | 2024   | 300
chat        | text_bytes=1000 own_maximum=100 prediction_bytes=50  | 2024   | 150
chat        | text_bytes=900000                                    | 128000 | 16384
chat        | text_bytes=10 outside=1                              | 128000 | 16384
chat        | text_bytes=10 web_search=1                           | 128000 | 16384
chat        | text_bytes=10 audio_tokens=500                       | 1534   | 16384
completion  | text_bytes=1000 own_maximum=16 prompts=4             | 5096   | 64
completion  | text_bytes=1000 own_maximum=16 prompts=4 choices=5   | 5096   | 320
completion  | text_bytes=900000 own_maximum=16 prompts=4           | 512000 | 64
embedding   | text_bytes=1000                                      | 1008   | 0
embedding   | text_bytes=900000                                    | 128000 | 0
embedding   | text_bytes=900000 prompts=2048                       | 916384 | 0
moderation  | text_bytes=1000                                      | 1008   | 0
response    | text_bytes=1000                                      | 2024   | 16384
response    | text_bytes=1000 own_maximum=100                      | 2024   | 100
response    | text_bytes=10 outside=1                              | 128000 | 16384
response    | text_bytes=10 passes=2                               | 256000 | 32768
response    | text_bytes=10 passes=2 own_maximum=100               | 256000 | 100
"""


@pytest.mark.parametrize("row", [line for line in CASES.strip().splitlines() if not line.startswith("#")])
def test_tokens_are_bounded_by_what_the_request_says(row: str) -> None:
    """Input is bounded by bytes and context, output by the request's own maximum or the model's."""
    operation, words, highest_input, highest_output = (cell.strip() for cell in row.split("|"))
    facts = RequestFacts(**{name: int(value) for name, value in (word.split("=") for word in words.split())})
    bound = bound_of(operation, facts, "any", FACTS)
    assert (bound.input_tokens, bound.output_tokens) == (int(highest_input), int(highest_output))


def test_pictures_and_audio_are_told_apart() -> None:
    """A bound says how many of its tokens may be pictures or audio, because these have rates of their own."""
    request = RequestFacts(text_bytes=100, picture_details=("low", "high", "auto"), audio_tokens=40, audio_output=True)
    bound = bound_of("chat", request, "gpt-4o", FACTS)
    assert bound.input_image_tokens == 85 + 1445 + 1445
    assert bound.input_audio_tokens == 40
    assert bound.input_tokens == 100 + TEMPLATE_TOKENS + bound.input_image_tokens + 40
    assert bound.output_audio
    assert not bound.output_image


def test_searches_are_counted_per_answer() -> None:
    """Each choice may search the web once."""
    bound = bound_of("chat", RequestFacts(text_bytes=1, web_search=True, choices=2), "any", FACTS)
    assert bound.web_searches == 2


def test_own_maximum_above_the_models() -> None:
    """No answer is longer than its model gives, whatever the request asks for, if that is known for certain."""
    request = RequestFacts(text_bytes=1, own_maximum=1_000_000, choices=2)
    assert bound_of("chat", request, "any", FACTS).output_tokens == 2 * 16_384
    guessed = ModelFacts(context_tokens=128_000, max_output_tokens=16_384, certain_output=False)
    assert bound_of("chat", request, "any", guessed).output_tokens == 2_000_000


def test_operation_without_a_row_has_no_bound() -> None:
    """What is not in the table cannot be bounded, so it must be refused."""
    with pytest.raises(KeyError):
        bound_of("realtime", RequestFacts(text_bytes=1), "any", FACTS)
    assert set(OPERATION_BOUNDS) == {"chat", "completion", "embedding", "response", "moderation"}


HOSTED = """
# tools                  calls | input   | output | web | files
web_search               4     | 640000  | 81920  | 4   | 0
file_search              4     | 640000  | 81920  | 0   | 4
web_search,file_search   1     | 256000  | 32768  | 1   | 1
mcp                      2     | 384000  | 49152  | 0   | 0
web_search               0     | 128000  | 16384  | 0   | 0
"""


@pytest.mark.parametrize("row", [line for line in HOSTED.strip().splitlines() if not line.startswith("#")])
def test_hosted_tools_are_bounded_by_their_calls(row: str) -> None:
    """Each call may have a fee, and makes the model read its context and write once more."""
    asked, highest_input, highest_output, web, files = (cell.strip() for cell in row.split("|"))
    tools, calls = asked.split()
    facts = RequestFacts(text_bytes=10, hosted_tools=tuple(tools.split(",")), tool_calls=int(calls))
    bound = bound_of("response", facts, "any", FACTS)
    assert (bound.input_tokens, bound.output_tokens) == (int(highest_input), int(highest_output))
    assert (bound.web_searches, bound.file_searches) == (int(web), int(files))


@given(st.data(), st.integers(0, 5), st.booleans(), st.none() | st.integers(0, 40_000))
def test_no_course_of_a_response_leaves_its_bound(
    data: st.DataObject, calls: int, compacted: bool, own_maximum: int | None
) -> None:
    """Whatever tools are called in whatever order, what all turns read, write and search stays within the bound."""
    tools = data.draw(st.lists(st.sampled_from(sorted(HOSTED_TOOLS)), unique=True))
    facts = RequestFacts(
        text_bytes=data.draw(st.integers(0, 200_000)),
        outside=True,
        own_maximum=own_maximum,
        hosted_tools=tuple(tools),
        tool_calls=calls,
        passes=2 if compacted else 1,
    )
    bound = bound_of("response", facts, "any", FACTS)
    called = data.draw(st.lists(st.sampled_from(tools), max_size=calls)) if tools else []
    turns = [0] * (len(called) + 1) * facts.passes
    read = [data.draw(st.integers(0, FACTS.context_tokens)) for _ in turns]
    rest = bound.output_tokens if own_maximum is None else own_maximum
    written = []
    for _ in turns:
        written.append(data.draw(st.integers(0, min(FACTS.max_output_tokens, rest))))
        rest -= written[-1] if own_maximum is not None else 0
    assert sum(read) <= bound.input_tokens
    assert sum(written) <= bound.output_tokens
    for kind in ("web_searches", "file_searches"):
        assert sum(HOSTED_TOOLS[tool] == kind for tool in called) <= getattr(bound, kind)


def test_other_counts_stand_in_the_order_of_kinds() -> None:
    """The counts of a bound meet the rates of their own kind."""
    values = dict(zip(OTHER_KINDS, range(1, 7), strict=True))
    assert Bound(input_tokens=0, output_tokens=0, **values).others == (1, 2, 3, 4, 5, 6)


@pytest.mark.parametrize(
    ("service_tier", "variants"),
    [
        (None, None),
        ("auto", None),
        ("unheard of", None),
        ("default", ("default",)),
        ("flex", ("flex", "default")),
        ("priority", ("priority", "fast", "default")),
    ],
)
def test_service_tier_leaves_these_variants_open(service_tier: str | None, variants: tuple[str, ...] | None) -> None:
    """An answer may come from the tier that was asked for or from the default one; unasked, from any."""
    assert variants_of(service_tier) == variants


PICTURES = """
# model                        low     high
gpt-4o                         85      1445
gpt-4o-2024-11-20              85      1445
openai/gpt-4o                  85      1445
gpt-4o-mini                    2833    48169
gpt-4o-mini-2024-07-18         2833    48169
gpt-4.1-mini                   2489    2489
gpt-4.1                        1536    1536
o3                             75      1275
o4-mini                        2642    2642
gpt-5                          70      1190
gpt-5.4                        49152   49152
some-llava                     49152   49152
"""


@pytest.mark.parametrize("row", [line for line in PICTURES.strip().splitlines() if not line.startswith("#")])
def test_picture_costs_what_its_model_can_make_of_it(row: str) -> None:
    """Each family has its formula; an unknown one is bounded by the dearest."""
    model, low, high = row.split()
    assert (picture_tokens(model, "low"), picture_tokens(model, "high")) == (int(low), int(high))
    assert picture_tokens(model, "auto") == int(high)


def wav(sample_rate: int, channels: int, bits: int, byte_rate: int | None = None, tag: int = 1) -> bytes:
    frame = channels * bits // 8
    speed = sample_rate * frame if byte_rate is None else byte_rate
    return b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<IHHIIHH", 16, tag, channels, sample_rate, speed, frame, bits)


def test_wav_is_bounded_by_its_true_speed() -> None:
    """Ten seconds of plain samples are 320 tokens at most, whatever the header's byte rate claims."""
    assert audio_tokens("wav", 480_000, wav(24_000, 1, 16)) == 320
    assert audio_tokens("wav", 480_000, wav(24_000, 1, 16, byte_rate=10**9)) == 320
    assert audio_tokens("wav", 1000, wav(1, 1, 8)) == 32_000


@pytest.mark.parametrize("head", [b"", b"RIFF", wav(24_000, 1, 16, tag=17), wav(0, 1, 16), b"x" * 44])
def test_wav_without_a_plain_header_is_bounded_as_the_slowest(head: bytes) -> None:
    """Compressed samples and broken headers count as the slowest codec there is."""
    assert audio_tokens("wav", 500, head) == 32


def test_other_formats_are_bounded_by_their_slowest_rate() -> None:
    """MP3 goes down to 8 kbit/s; a format nobody knows counts as slower still."""
    assert audio_tokens("mp3", 10_000) == 320
    assert audio_tokens("pcm16", 480_000) == 320
    assert audio_tokens("opus", 5000) == 320
    assert audio_tokens("mp3", 1) == 1


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(1, 5), st.integers(1, 5))
def test_more_of_anything_never_lowers_a_bound(text: int, more: int, choices: int, prompts: int) -> None:
    """A longer text, more choices or more prompts can only raise a bound."""
    small = bound_of("completion", RequestFacts(text_bytes=text), "any", FACTS)
    large = bound_of("completion", RequestFacts(text_bytes=text + more, choices=choices, prompts=prompts), "any", FACTS)
    assert large.input_tokens >= small.input_tokens
    assert large.output_tokens >= small.output_tokens
