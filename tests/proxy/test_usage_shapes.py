"""Usage shapes: a text table of what providers report and what it is in disjoint kinds."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from meterproxy.core.usage import MAX_COUNT, Usage
from meterproxy.proxy.usage_shapes import (
    CHAT,
    IMPOSSIBLE,
    INCOMPLETE,
    SHAPES,
    Ceiling,
    Taken,
    take_usage,
    take_usual_usage,
)

# operation | reported | kinds (all others 0)
POSSIBLE = """
chat       | {"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}                                  | input 9 output 12
chat       | {"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}                                    |
chat       | {"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":null}                        | input 9 output 2
chat       | {"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":null}}      | input 9 output 2
chat       | {"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":9}}         | cache_read 9 output 2
chat       | {"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":4,"cache_write_tokens":3}} | input 2 cache_read 4 cache_write 3 output 2
chat       | {"prompt_tokens":9,"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":7}}  | input 9 output 2 reasoning 7
chat       | {"prompt_tokens":9,"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":0}}  | input 9 output 9
chat       | {"prompt_tokens":9,"completion_tokens":9,"prompt_tokens_details":{"audio_tokens":5},"completion_tokens_details":{"audio_tokens":8}} | input 4 input_audio 5 output 1 output_audio 8
chat       | {"prompt_tokens":9,"completion_tokens":9,"prompt_tokens_details":{"image_tokens":5}}          | input 4 input_image 5 output 9
chat       | {"prompt_tokens":9,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":6,"audio_tokens":5}} | cache_read 4 input_audio 3 cache_read_audio 2 output 9
chat       | {"prompt_tokens":9,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":9,"image_tokens":5}} | cache_read 4 cache_read_image 5 output 9
chat       | {"prompt_tokens":9,"completion_tokens":9,"completion_tokens_details":{"accepted_prediction_tokens":3,"rejected_prediction_tokens":4}} | input 9 output 9
chat       | {"prompt_tokens":9,"completion_tokens":2,"total_tokens":16,"completion_tokens_details":{"reasoning_tokens":5}} | input 9 output 2 reasoning 5
chat       | {"prompt_tokens":9,"completion_tokens":2,"total_tokens":16}                                   | input 9 output 2 reasoning 5
chat       | {"prompt_tokens":9,"completion_tokens":2,"total_tokens":9000}                                 | input 9 output 2
chat       | {"prompt_tokens":9,"completion_tokens":2,"total_tokens":5}                                    | input 9 output 2
chat       | {"prompt_tokens":1000,"completion_tokens":100}                                                | input 1000 output 100
completion | {"prompt_tokens":9,"completion_tokens":2}                                                     | input 9 output 2
embedding  | {"prompt_tokens":9,"total_tokens":9}                                                          | input 9
response   | {"input_tokens":9,"output_tokens":5,"input_tokens_details":{"cached_tokens":4},"output_tokens_details":{"reasoning_tokens":5}} | input 5 cache_read 4 reasoning 5
image      | {"input_tokens":9,"output_tokens":5,"input_tokens_details":{"text_tokens":4,"image_tokens":5},"output_tokens_details":{"image_tokens":5}} | input 4 input_image 5 output_image 5
"""

IMPOSSIBLE_USAGE = """
{"prompt_tokens":-1,"completion_tokens":2}
{"prompt_tokens":1.0,"completion_tokens":2}
{"prompt_tokens":true,"completion_tokens":2}
{"prompt_tokens":"9","completion_tokens":2}
{"prompt_tokens":[],"completion_tokens":2}
{"prompt_tokens":9007199254740993,"completion_tokens":2}
{"prompt_tokens":18446744073709551616,"completion_tokens":2}
{"prompt_tokens":9,"completion_tokens":-2}
{"prompt_tokens":9,"completion_tokens":2,"total_tokens":-11}
{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":[]}
{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":10}}
{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":-1}}
{"prompt_tokens":9,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":5,"cache_write_tokens":5}}
{"prompt_tokens":9,"completion_tokens":2,"completion_tokens_details":{"reasoning_tokens":3}}
{"prompt_tokens":9,"completion_tokens":2,"completion_tokens_details":{"reasoning_tokens":1.5}}
{"prompt_tokens":9,"completion_tokens":9,"completion_tokens_details":{"reasoning_tokens":5,"audio_tokens":5}}
{"prompt_tokens":1001,"completion_tokens":2}
{"prompt_tokens":9,"completion_tokens":101}
"""

CEILING = Ceiling(input_tokens=1000, output_tokens=100)


def rows(table):
    return [tuple(cell.strip() for cell in line.split("|")) for line in table.strip().splitlines()]


@pytest.mark.parametrize(("operation", "reported", "kinds"), rows(POSSIBLE))
def test_reported_usage_in_disjoint_kinds(operation, reported, kinds):
    """What a provider reports lands in kinds that do not overlap."""
    words = kinds.split()
    wanted = Usage(requests=1, **{kind: int(count) for kind, count in zip(words[::2], words[1::2], strict=True)})
    assert take_usage(json.loads(reported), SHAPES[operation], CEILING) == (wanted, ())


@pytest.mark.parametrize("reported", [row for (row,) in rows(IMPOSSIBLE_USAGE)])
def test_impossible_usage_is_no_usage(reported):
    """What cannot be is not believed."""
    assert take_usage(json.loads(reported), SHAPES["chat"], CEILING) == (None, (IMPOSSIBLE,))


@pytest.mark.parametrize("reported", [{}, {"prompt_tokens": 9}, {"completion_tokens": 9}, {"prompt_tokens": None}])
def test_a_missing_whole_is_no_usage(reported):
    """Missing usage is never zero usage."""
    assert take_usage(reported, SHAPES["chat"], CEILING) == (None, (INCOMPLETE,))


def test_counts_of_unknown_kinds_are_flagged():
    """A count that may be billed and that we do not know is told."""
    reported = {"prompt_tokens": 9, "completion_tokens": 2, "prompt_tokens_details": {"video_tokens": 3, "x y": 1}}
    assert take_usage(reported, SHAPES["chat"], CEILING).flags == ("unknown_usage:video_tokens",)


counts = st.none() | st.integers(-2, 40) | st.sampled_from([MAX_COUNT, MAX_COUNT + 1, 2.5, "3", True])
details = st.none() | st.dictionaries(
    st.sampled_from(["cached_tokens", "cache_write_tokens", "audio_tokens", "image_tokens", "reasoning_tokens"]), counts
)


@settings(max_examples=300)
@given(counts, counts, counts, details, details)
def test_kinds_add_up_to_the_wholes(prompt, completion, total, prompt_details, completion_details):
    """Whatever is reported, usage is None or its kinds are the reported wholes taken apart."""
    reported = {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": total,
        "prompt_tokens_details": prompt_details,
        "completion_tokens_details": completion_details,
    }
    usage = take_usage(reported, SHAPES["chat"], Ceiling()).usage
    if usage is not None:
        assert all(type(count) is int and 0 <= count <= MAX_COUNT for count in usage)
        assert usage.input_tokens == prompt
        assert usage.output_tokens in {completion, (total or 0) - prompt}


counts = st.sampled_from([0, 0, 1, 5, 60, 72, 136, 2**53, 2**53 + 1, -1, 5.0, None, True, "5"])
detail_names = st.sampled_from(
    "cached_tokens text_tokens audio_tokens image_tokens cache_write_tokens reasoning_tokens accepted_prediction_tokens"
    " rejected_prediction_tokens other_tokens".split()
)
details = st.none() | st.dictionaries(detail_names, counts, max_size=3)


@settings(max_examples=500)
@given(
    st.fixed_dictionaries(
        {"prompt_tokens": counts, "completion_tokens": counts, "total_tokens": counts},
        optional={"prompt_tokens_details": details, "completion_tokens_details": details},
    ),
    st.sampled_from([Ceiling(), Ceiling(100, 100), Ceiling(1000, 64)]),
)
def test_reading_by_types_agrees_with_reading_closely(document, ceiling):
    """What is read as a usual answer is what a close look would have read, without flags."""
    usual = take_usual_usage(json.dumps(document).encode(), ceiling)
    if usual is not None:
        assert take_usage(document, CHAT, ceiling) == Taken(usual, ())


def test_usual_answers_are_read_by_types():
    """OpenAI's own usage object needs no close look."""
    raw = (
        b'{"prompt_tokens":72,"completion_tokens":64,"total_tokens":136,'
        b'"prompt_tokens_details":{"cached_tokens":8,"audio_tokens":0},'
        b'"completion_tokens_details":{"reasoning_tokens":4,"audio_tokens":0,'
        b'"accepted_prediction_tokens":0,"rejected_prediction_tokens":0}}'
    )
    assert take_usual_usage(raw, Ceiling()) == Usage(input=64, cache_read=8, output=60, reasoning=4, requests=1)
