"""What several workers counted, put together: nothing goes back, whoever dies, and gauges mean what they say."""

from hypothesis import given
from hypothesis import strategies as st

from meterproxy.runtime.snapshot import Family, Snapshot, Tally, Together, exposition, merged

SLOTS = 3
COUNTER, SKEW, UP = "requests", "skew", "up"


def snapshot(slot: int, life: str, counts: dict[str, float], skew: float = 0.0, up: float = 1.0) -> Snapshot:
    """A worker that has counted by model, and has two gauges."""
    readings = [(f"{COUNTER}_total", (("model", model),), value) for model, value in counts.items()]
    families = [
        Family(COUNTER, "Some.", "counter", Together.SUM, readings),
        Family(SKEW, "Some.", "gauge", Together.FARTHEST, [(SKEW, (), skew)]),
        Family(UP, "Some.", "gauge", Together.LOWEST, [(UP, (), up)]),
    ]
    return Snapshot(slot, life, families)


def counted(tally: Tally) -> dict[str, float]:
    """The host's counter by model."""
    families = {family.name: family for family in tally.families([])}
    readings = families[COUNTER].readings if COUNTER in families else []
    return {labels[0][1]: value for _, labels, value in readings}


steps = st.tuples(
    st.integers(0, SLOTS - 1), st.sampled_from(["count", "scrape", "die"]), st.sampled_from("ab"), st.integers(0, 5)
)


@given(st.lists(steps, max_size=30))
def test_no_sum_goes_back_and_none_is_too_high(happened: list[tuple[int, str, str, int]]) -> None:
    """Whoever counts, is scraped and dies in whatever order: sums rise, and are what was counted and heard of."""
    tally, lives, last = Tally(), [0] * SLOTS, {}
    counts: list[dict[str, float]] = [{} for _ in range(SLOTS)]
    heard: list[dict[str, float]] = [{} for _ in range(SLOTS)]
    past: dict[str, float] = {}
    for slot, what, model, amount in happened:
        if what == "count":
            counts[slot][model] = counts[slot].get(model, 0) + amount
        elif what == "scrape":
            heard[slot] = dict(counts[slot])
            tally.hear(snapshot(slot, f"{slot}-{lives[slot]}", counts[slot]))
        else:
            for name, value in heard[slot].items():
                past[name] = past.get(name, 0) + value
            lives[slot] += 1
            counts[slot], heard[slot] = {}, {}
        now = counted(tally)
        assert all(now.get(name, 0) >= value for name, value in last.items())
        expected = {name: past.get(name, 0) + sum(one.get(name, 0) for one in heard) for name in now}
        assert now == expected
        last = now


def test_a_gauge_is_about_those_who_answer() -> None:
    """The lowest, the farthest from zero; somebody who is gone has no gauges."""
    tally = Tally()
    answers = [snapshot(0, "a", {}, skew=-3.0), snapshot(1, "b", {}, skew=2.0, up=0.0)]
    for answer in (*answers, snapshot(2, "c", {}, skew=9.0)):
        tally.hear(answer)
    families = {family.name: family.readings for family in tally.families(answers)}
    assert families[SKEW] == [(SKEW, (), -3.0)]
    assert families[UP] == [(UP, (), 0.0)]


def test_text_is_grouped_by_family() -> None:
    """One head per metric, whatever labels each worker has."""
    together = merged([snapshot(0, "a", {"x": 1}).families, snapshot(1, "b", {"y": 2, "x": 3}).families])
    text = b"".join(map(exposition, together)).decode()
    assert text.count("# TYPE requests_total counter") == 1
    assert 'requests_total{model="x"} 4.0\nrequests_total{model="y"} 2.0\n' in text
