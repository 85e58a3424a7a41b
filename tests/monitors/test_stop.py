"""Stop strings: the cut depends on the text alone."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from monitors.stop import StopFilter


def run(parts: list[str], *stops: str) -> tuple[str, str | None]:
    stop = StopFilter(stops)
    return "".join([*map(stop.feed, parts), stop.close()]), stop.matched


def test_text_ends_before_the_stop_string() -> None:
    assert run(["one two"], " t") == run(["one ", "two"], " t") == ("one", " t")


def test_the_first_complete_stop_string_counts_and_of_two_the_longer() -> None:
    assert run(["abcd"], "bcd", "c") == ("ab", "c")
    assert run(["abcd"], "c", "bc") == ("a", "bc")


def test_the_beginning_of_one_is_held_back_until_the_end() -> None:
    stop = StopFilter(("END",))
    assert (stop.feed("no EN"), stop.close()) == ("no ", "EN")


@given(
    st.text("ab", max_size=20),
    st.lists(st.text("ab", min_size=1, max_size=4), max_size=3),
    st.lists(st.integers(0, 20), max_size=6).map(sorted),
)
def test_any_chunking_gives_the_same_cut(text: str, stops: list[str], cuts: list[int]) -> None:
    parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, None], strict=True)]
    kept, matched = run(parts, *stops)
    assert (kept, matched) == run([text], *stops)
    assert text.startswith(kept + (matched or ""))
