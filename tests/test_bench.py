"""The benchmark's report: figures go where the README has room for them, and nowhere else."""

from pathlib import Path

import pytest

from bench.inside import built
from bench.tables import fill, has_marks, table

ROOT = Path(__file__).parents[1]


def test_the_readme_has_room_for_figures() -> None:
    """The marks are there."""
    assert has_marks(ROOT / "README.md")


def test_figures_replace_those_before_them(tmp_path: Path) -> None:
    """What is around the marks stays, what is between them goes; twice is once."""
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench:begin -->\nold\n<!-- bench:end -->\nafter\n")
    for _ in range(2):
        fill(readme, ["here.", table("Plain", {"proxy": {"req/s": 1234.0}}, markdown=True)])
    assert readme.read_text() == (
        "before\n<!-- bench:begin -->\nhere.\n\n### Plain\n| target | req/s |\n| --- | ---: |\n| proxy | 1 234 |\n"
        "<!-- bench:end -->\nafter\n"
    ).replace("1 234", table("", {"": {"x": 1234.0}}, markdown=True).split("|")[-2].strip())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "<!-- bench:begin -->\n",
        "<!-- bench:end --><!-- bench:begin -->\n",
        "<!-- bench:begin --> <!-- bench:end -->",
    ],
)
def test_files_without_room_are_left_alone(tmp_path: Path, text: str) -> None:
    """A file without both marks, in order and on lines of their own, is not one to fill."""
    readme = tmp_path / "README.md"
    assert not has_marks(readme)
    readme.write_text(text)
    assert not has_marks(readme)


@pytest.mark.parametrize("stream", [False, True])
async def test_requests_can_be_measured_inside_one_process(tmp_path: Path, stream: bool) -> None:
    """The parts fit together without sockets and without PostgreSQL, and every request is answered and settled."""
    async with built(tmp_path, together=8) as inside:
        await inside.answer(9, stream=stream, connections=2)
        assert inside.settled == 9
