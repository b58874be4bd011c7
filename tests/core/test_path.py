"""Paths: what is written is what single draws say, whoever writes it; what was written before is read."""

import sys
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any
from uuid import UUID

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from meterproxy.core.draw import Taken, taken, taken_together
from meterproxy.core.limit import Measure
from meterproxy.core.path import MEASURES, Draw, Draws, Path, Source, read_draws, write_draws
from meterproxy.core.record import EndRecord, decode_payload, decode_subject, encode_payload, encode_subject
from tests.ledger.records import end, endings, place

_plain = msgspec.msgpack.Encoder(uuid_format="bytes")

sources = st.builds(
    Source,
    st.uuids(),
    st.integers(0, 2**62),
    st.uuids(),
    st.sampled_from([int(measure) for measure in Measure]),
    st.booleans(),
)
amounts = st.tuples(*[st.integers(0, 2**63 - 1)] * MEASURES)
held = st.builds(Draws, st.lists(sources, max_size=14).map(Path), amounts)


def test_there_is_a_place_for_each_measure() -> None:
    """Amounts are by the measures' numbers."""
    assert sorted(Measure) == list(range(MEASURES))


@given(held)
def test_what_is_written_is_each_draw_by_itself(draws: Draws) -> None:
    """Journals, and rows of durable holds, have what they always had: a list of draws, each of six members."""
    written = msgspec.msgpack.Encoder(enc_hook=write_draws).encode(draws)
    assert written == _plain.encode([tuple(draw) for draw in draws])
    assert written == msgspec.msgpack.Encoder(enc_hook=write_draws).encode(draws), "and again the same"


@given(held)
def test_what_was_written_is_read_back(draws: Draws) -> None:
    """With the very same path, and the amounts that are on it."""
    read = msgspec.msgpack.Decoder(Draws, dec_hook=read_draws).decode(_plain.encode([tuple(draw) for draw in draws]))
    assert read == draws
    assert read.path is draws.path
    assert [*read] == [*draws]
    assert read.each == draws.each == tuple(draw.amount for draw in draws)


def test_records_of_older_releases_are_read() -> None:
    """Draws had four members once, and what is only counted kept its amount while a hold was extended."""
    limit, session = UUID(int=1), UUID(int=2)
    old = [[limit.bytes, 5, session.bytes, 70, 0, True], [limit.bytes, 0, session.bytes, 90]]
    assert [*read_draws(Draws, old)] == [Draw(limit, 5, session, 90, 0, True), Draw(limit, 0, session, 90, 0, False)]


@pytest.mark.parametrize(
    "told",
    [
        [[bytes(16), 0, bytes(16), 1], [bytes(16), 0, bytes(16), 2]],
        [[bytes(16), 0, bytes(16), 1, MEASURES]],
        [[bytes(16), 0, bytes(16), 1, -1]],
        [[bytes(15), 0, bytes(16), 1]],
        [[bytes(16), 0]],
        [["sixteen letters!", 0, bytes(16), 1]],
        [7],
        7,
    ],
)
def test_what_no_release_ever_wrote_is_damage(told: Any) -> None:
    """It is told as a record that cannot be read, not taken for one that draws from elsewhere."""
    record = _plain.encode(["place", [*msgspec.to_builtins(place(1).subject, enc_hook=lambda _draws: told)], None])
    with pytest.raises(msgspec.MsgspecError):
        decode_payload(record)


def test_a_record_and_its_subject_come_back() -> None:
    """By the journal's own way, and by that of rows whose holds outlive it."""
    draws = Draws.of([Draw(UUID(int=1), 60, UUID(int=3), 1, 1), Draw(UUID(int=2), 0, UUID(int=3), 900)])
    record = end(1, draws=draws)
    assert decode_payload(encode_payload(record)) == record
    assert decode_subject(encode_subject(record.subject)) == record.subject


@given(
    st.lists(
        st.tuples(held, endings, st.integers(0, 2**40), st.sampled_from(["captured", "released", "recovered"])),
        max_size=6,
    )
)
def test_sums_are_those_of_single_draws(told: list[tuple[Draws, Any, int, str]]) -> None:
    """What a batch takes of each lease is what its records take of it one by one."""
    records: list[EndRecord] = [
        msgspec.structs.replace(end(number, amount if how != "released" else 0, how, draws=draws), ending=ending)
        for number, (draws, ending, amount, how) in enumerate(told)
    ]
    singly: dict[Any, Taken] = {}
    for record in records:
        for draw, amounts in zip(record.subject.draws, taken(record), strict=True):
            lease = (record.subject.account_id, draw.limit_id, draw.window_start_us, draw.session_id)
            before = singly.get(lease, Taken(0, 0, 0))
            singly[lease] = Taken(*(a + b for a, b in zip(before, amounts, strict=True)))
    assert taken_together(records) == {lease: [*amounts] for lease, amounts in singly.items()}


def test_there_is_one_object_for_each_path() -> None:
    """However it came about; another order is another path."""
    first, second = Source(UUID(int=1), 0, UUID(int=9)), Source(UUID(int=2), 0, UUID(int=9), 2)
    assert Path([first, second]) is Path((first, second))
    assert Path([second, first]) is not Path([first, second])
    assert Path([first]).credit_alone
    assert not Path([first._replace(counted=True)]).credit_alone
    assert not Path([first, second]).credit_alone
    assert Path([second, first]).measures == (0, 2)


def test_threads_that_read_the_same_path_get_the_same_one() -> None:
    """Several journals are taken over at once, each read in a thread of its own."""
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(3) as threads:
            for number in range(500):
                source = Source(UUID(int=number), 0, UUID(int=1))
                begin = Barrier(3)
                made = [*threads.map(lambda _, begin=begin, source=source: _made_with(begin, source), range(3))]
                assert made[0] is made[1] is made[2]
    finally:
        sys.setswitchinterval(interval)


def _made_with(begin: Barrier, source: Source) -> Path:
    begin.wait()
    return Path([source])
