"""Progress is told with the time left: drawn on a terminal, in lines in a log and a notebook."""

import io
import re
import time
from collections.abc import Callable, Iterable

import pytest
from rich.console import Console

from thinktune.live_view import LiveView, can_draw, sparkline
from thinktune.pace import Pace, clock_text


class Clock:
    """Stands still unless it is told to move."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.now += seconds


def log(work: Callable[[LiveView, Clock], object], *, brief: bool = False) -> list[str]:
    """The lines a log file gets."""
    file, clock = io.StringIO(), Clock()
    with LiveView(Console(file=file, width=80), brief=brief, clock=clock) as view:
        work(view, clock)
    return file.getvalue().splitlines()


def screen(work: Callable[[LiveView, Clock], object], width: int) -> list[str]:
    """What stands on a terminal at the end, line by line."""
    console = Console(file=io.StringIO(), force_terminal=True, width=width, height=30)
    clock = Clock()
    with LiveView(console, clock=clock) as view:
        work(view, clock)
        with console.capture() as capture:
            console.print(view._picture())
    plain = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", capture.get())
    return [line.rstrip() for line in plain.splitlines() if line.strip()]


def take(view: LiveView, clock: Clock, parts: Iterable[int], seconds: float, **numbers: float):
    for done in parts:
        clock.wait(seconds)
        view.advance(done, {f"train/{name}": value for name, value in numbers.items()})


def train(view: LiveView, clock: Clock) -> None:
    view.stage("Training the adapter", 600)
    take(view, clock, range(1, 121), 2, loss=1.234, tokens_per_second=420.0)


def test_the_time_left_follows_the_recent_rate_and_not_a_slow_beginning() -> None:
    clock = Clock()
    pace = Pace(clock)
    clock.wait(300)  # the first step is compiled
    pace.advance(1)
    assert pace.seconds_left(101) is None
    for done in range(2, 12):
        clock.wait(1)
        pace.advance(done)
    assert pace.seconds_left(101) == pytest.approx(90)
    clock.wait(0.5)
    assert pace.seconds_left(101) == pytest.approx(89.5)
    clock.wait(100)  # it hangs: no more than the part under way is taken off
    assert pace.seconds_left(101) == pytest.approx(89)


def test_steps_that_an_earlier_process_took_do_not_count_as_instantly_made() -> None:
    clock = Clock()
    pace = Pace(clock)
    pace.advance(500)
    for done in range(501, 511):
        clock.wait(3)
        pace.advance(done)
    assert pace.seconds_left(600) == pytest.approx(270)


def test_answers_that_end_together_do_not_look_like_a_high_rate() -> None:
    clock = Clock()
    pace = Pace(clock)
    for batch in range(3):
        clock.wait(30)
        for number in range(8):
            clock.wait(0.001)
            pace.advance(8 * batch + number + 1)
    assert pace.seconds_left(48) == pytest.approx(90, rel=0.1)


def test_a_stage_that_gets_slower_is_measured_by_its_last_fifth_or_minute() -> None:
    clock = Clock()
    pace = Pace(clock)
    for done in range(1, 101):
        clock.wait(1)
        pace.advance(done)
    for done in range(101, 121):
        clock.wait(10)
        pace.advance(done)
    assert pace.seconds_left(130) == pytest.approx(100)
    assert len(pace._marks) < 20


def test_a_million_parts_take_no_more_memory_than_a_few() -> None:
    clock = Clock()
    pace = Pace(clock)
    for done in range(1, 200_000):
        clock.wait(0.01)
        pace.advance(done)
    assert len(pace._marks) < 1000
    assert pace.seconds_left(300_000) == pytest.approx(1000, rel=0.01)


@pytest.mark.parametrize(("seconds", "told"), [(0, "0:00"), (59.9, "0:59"), (3600, "1:00:00")])
def test_a_clock_shows_hours_only_where_there_are_any(seconds: float, told: str) -> None:
    assert clock_text(seconds) == told


def test_a_log_gets_a_line_for_every_tenth_with_time_gone_and_left() -> None:
    lines = log(train)
    assert lines[0] == "- Training the adapter (600)"
    shown = "  120/600  loss 1.234  420 tokens/s  4:00 gone, 16:00 left"
    assert lines[-1] == shown
    assert [line.split()[0] for line in lines[1:]] == [f"{n}/600" for n in (30, 60, 90, 120)]


def test_a_stage_of_moments_gets_its_heading_and_its_end_and_no_more() -> None:
    def work(view: LiveView, clock: Clock) -> None:
        view.stage("Answers", 10)
        take(view, clock, range(1, 11), 0.01)
        view.advance(10)

    assert log(work) == ["- Answers (10)", "  10/10  0:00 gone"]


def test_a_log_hears_once_a_minute_of_what_does_not_move() -> None:
    def work(view: LiveView, clock: Clock) -> None:
        view.stage("Loading weights")
        clock.wait(61)
        _until(lambda: "gone" in view._console.file.getvalue())  # pyright: ignore
        clock.wait(30)
        time.sleep(1.2)  # half a minute more, and the next look

    assert log(work) == ["- Loading weights", "  1:01 gone"]


def _until(happens: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not happens():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_what_is_brief_says_nothing_unless_it_takes_two_seconds() -> None:
    def quick(view: LiveView, clock: Clock) -> None:
        view.stage("Reading rows.jsonl")
        take(view, clock, range(1, 1001), 0.001)

    def long(view: LiveView, clock: Clock) -> None:
        view.stage("Reading rows.jsonl")
        take(view, clock, range(1, 8), 10)

    assert log(quick, brief=True) == []
    assert log(long, brief=True) == ["- Reading rows.jsonl", "  6  1:00 gone"]


def test_a_long_name_is_not_broken_into_lines_of_a_log() -> None:
    name = "deepseek-ai/" + "DeepSeek-R1-Distill-" * 6 + "[bold]"
    assert log(lambda view, _: view.stage(f"Loading {name}")) == [f"- Loading {name}"]


@pytest.mark.parametrize("width", [80, 120])
def test_a_terminal_shows_stage_count_time_gone_and_left_within_its_width(width: int) -> None:
    def work(view: LiveView, clock: Clock) -> None:
        view.stage("Loading deepseek-ai/DeepSeek-R1-Distill-Llama-8B-with-a-long-name [bold]")
        clock.wait(75)
        train(view, clock)

    first, second, numbers, losses = screen(work, width)
    assert all(len(line) <= width for line in (first, second, numbers, losses))
    assert first.endswith("1:15")
    assert "Loading deepseek-ai/" in first
    assert re.search(r"Training the adapter +━+.* 120/600 4:00 16:00 left$", second)
    assert numbers.split("   ") == ["  loss 1.234", "420 tokens/s"]
    assert losses.startswith("  loss 1.23 ")


def test_more_stages_than_a_terminal_has_lines_scroll_away_and_the_present_one_stays() -> None:
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=80, height=12)
    with LiveView(console) as view:
        for number in range(20):
            view.stage(f"stage {number:02d}", 3)
            view.advance(3)
        assert len(view._stages) < 12
        assert view._stages[-1].title == "stage 19"
    assert all(f"stage {number:02d}" in file.getvalue() for number in range(20))


def test_a_notebook_gets_lines_by_its_own_console_and_by_a_command_in_a_cell(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("JPY_PARENT_PID", raising=False)
    terminal = Console(file=io.StringIO(), force_terminal=True)
    assert can_draw(terminal)
    assert not can_draw(Console(file=io.StringIO(), force_terminal=True, force_jupyter=True))
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert not can_draw(terminal)
    with LiveView(terminal) as view:
        view.stage("Answers", 2)
        view.advance(2)
    assert re.sub(r"\x1b\[[0-9;]*m", "", terminal.file.getvalue()) == (  # pyright: ignore
        "- Answers (2)\n  2/2  0:00 gone\n"
    )


def test_what_is_said_stands_between_the_lines() -> None:
    def work(view: LiveView, clock: Clock) -> None:
        view.stage("Training", 2)
        view.say("Memory: [1.0 GiB] planned.")
        view.advance(2)

    assert log(work)[1] == "Memory: [1.0 GiB] planned."


def test_what_a_distillation_costs_is_shown_even_if_it_is_nothing() -> None:
    def work(view: LiveView, clock: Clock) -> None:
        view.stage("Asking r1", 2)
        numbers = {"requests_per_minute": 12.4, "tokens": 3400, "cost": 0.0, "retries": 0}
        view.advance(2, numbers)

    assert log(work)[1] == "  2/2  12/min  3,400 tokens  cost 0.0000  0:00 gone"


def test_an_error_within_the_view_ends_its_thread_and_goes_on() -> None:
    view = LiveView(Console(file=io.StringIO()))
    with pytest.raises(ValueError, match="broken"), view:
        raise ValueError("broken")
    assert not view._ticker.is_alive()


def test_a_flat_line_of_losses_has_one_height() -> None:
    assert sparkline([2.0, 2.0, 2.0]) == "▁▁▁"
    assert len(sparkline([float(n) for n in range(1000)])) <= 40
    assert sparkline([]) == ""
