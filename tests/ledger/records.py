"""Records of a journal, made up: one request's place, progress and end by number, and any record at random."""

from typing import Any
from uuid import UUID

from hypothesis import strategies as st

from meterproxy.core.path import Draw, Draws
from meterproxy.core.record import (
    Ending,
    EndRecord,
    PlaceRecord,
    PriceRecord,
    ProgressRecord,
    Record,
    SessionRecord,
    Subject,
)
from meterproxy.core.usage import Outcome, Usage, UsageSource

SESSION = UUID(int=7)
ACCOUNT = UUID(int=8)
LIMIT = UUID(int=9)


def subject(number: int, **members: Any) -> Subject:
    values = {
        "request_id": UUID(int=number),
        "occurred_us": 1_700_000_000_000_000 + number,
        "account_id": ACCOUNT,
        "user_id": UUID(int=10),
        "key_id": UUID(int=11),
        "operation": "chat",
        "provider": "test",
        "model": "test-model",
        "price_id": UUID(int=12),
        "markup_ppm": 1_000_000,
        "hold_nanos": 1000,
        "bound_input_tokens": 1,
        "bound_output_tokens": 1,
        "stream": False,
        "draws": Draws.of([Draw(LIMIT, 0, SESSION, 1000)]),
        **members,
    }
    return Subject(**values)


def place(number: int, **members: Any) -> PlaceRecord:
    return PlaceRecord(subject(number, **members))


def end(number: int, amount_nanos: int = 600, how: str = "captured", **members: Any) -> EndRecord:
    ending = Ending(Outcome.COMPLETED, 200, UsageSource.PROVIDER, Usage(input=1))
    return EndRecord(how, subject(number, **members), ending, amount_nanos, amount_nanos, 0)


def progress(number: int, tokens: int = 1) -> ProgressRecord:
    return ProgressRecord(UUID(int=number), Usage(output=tokens))


texts = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
counts = st.integers(0, 2**53)
usages = st.builds(lambda numbers: Usage(*numbers), st.lists(counts, min_size=18, max_size=18))
endings = st.builds(
    Ending,
    outcome=st.sampled_from(list(Outcome)).map(str),
    status=st.integers(0, 599),
    usage_source=st.sampled_from(list(UsageSource)).map(str),
    usage=usages,
    served_model=st.none() | texts,
    tools=st.lists(texts, max_size=3).map(tuple),
    raw_usage=st.none() | st.binary(max_size=100),
)
subjects = st.builds(
    subject,
    st.integers(0, 2**60),
    model=texts,
    hold_nanos=st.integers(0, 2**63 - 1),
    conversation=st.none() | texts,
    tags=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
)
records: st.SearchStrategy[Record] = st.one_of(
    st.builds(PlaceRecord, subjects),
    st.builds(ProgressRecord, st.uuids(), usages),
    st.builds(
        EndRecord,
        st.sampled_from(["captured", "released", "recovered"]),
        subjects,
        endings,
        counts,
        counts,
        counts,
    ),
    st.builds(PriceRecord, st.uuids(), st.binary(max_size=3000)),
    st.builds(SessionRecord, st.uuids(), counts),
)
