"""Metrics on the evaluation page: a verdict, the main metric large, all of them in a table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from thinktune.data.charts import escaped, number_of
from thinktune.evaluation.page_charts import (
    RATES,
    Mark,
    Number,
    Scale,
    axis,
    scale_around_zero,
    scale_of,
    strip,
)

SIGNIFICANCE = 0.05
Json = Mapping[str, Any]
"""A part of the page's content: keys as JSON has them."""
_GROUPS = {
    "accuracy": "Right answers",
    "finishing": "Finishing",
    "length": "Length",
    "style": "Style",
    "faithfulness": "Faithfulness",
    "loss": "Loss",
}
_MARKS = {"better": "▲", "worse": "▼", "cannot tell": "●"}
_PURPOSES = {"domain": "what it was trained for", "retention": "what it should not lose"}


def badge(outcome: str, more: str = "") -> str:
    """Show an outcome as a word with a sign, so that its colour is not needed."""
    return f'<span class="badge {_tone(outcome)}">{_MARKS[outcome]} {outcome}{more}</span>'


def headline(outcome: str | None, verdict: str) -> str:
    """Show a verdict: its outcome as a badge in the sentence, the evidence in brackets smaller."""
    head = ""
    if outcome:
        repeated = verdict.lower().startswith(f"{outcome}:")
        verdict = verdict[len(outcome) + 1 :].lstrip() if repeated else verdict
        head = badge(outcome, '<span class="hidden">:</span>' if repeated else "") + " "
    claim, bracket, evidence = verdict.partition(" (")
    told = f' <span class="evidence">({escaped(evidence)}</span>' if bracket else ""
    return f'{head}<span class="claim">{escaped(claim)}</span>{told}'


def main_metric(task: Json) -> Json | None:
    """The metric that a task is judged by: the first of its accuracies, else its first."""
    metrics = task["metrics"]
    accuracies = [metric for metric in metrics if metric["group"] == "accuracy"]
    return next(iter([*accuracies, *metrics]), None)


def panel(task: Json, sides: Sequence[Json]) -> str:
    """Show a task's main metric: its numbers large, below them dots with intervals."""
    metric = main_metric(task)
    purpose = _PURPOSES.get(task["purpose"], "")
    title = f"<h3>{escaped(task['name'])} <small>{escaped(purpose)}</small></h3>"
    if metric is None:
        return f'<div class="panel">{title}<p class="dim">Nothing was measured.</p></div>'
    unit, scale = metric["unit"], _scale(metric["unit"], [metric], sides)
    large, rows = [], []
    for place, side in enumerate(sides):
        estimate = metric[side["key"]]
        told = "–" if estimate is None else number(estimate["mean"], unit, estimate)
        large.append(f'<span class="s{place}">{told}</span>')
        line = strip(scale, [_side_mark(place, side, metric)], _about(metric, [side]), 30)
        rows.append(
            f'<span class="s{place}">{escaped(side["title"])}</span>'
            f'<span class="num">{_range(estimate, unit)}</span>{line}'
        )
    found = _difference(metric)
    difference = ""
    if found is not None:
        told = f"{number(found['mean'], unit, found, signed=True)} ({_range(found, unit, True)})"
        difference = f'<p class="change">{told} {effect_badge(metric)}</p>'
    arrow = '<span class="arrow" aria-label="then">→</span>'
    return (
        f'<div class="panel">{title}<p class="large">{arrow.join(large)}</p>{difference}'
        f'<div class="strips">{"".join(rows)}{axis(scale)}</div>'
        f'<p class="dim">{escaped(metric["title"])}, {number_of(task["num_questions"], "question")}'
        "</p></div>"
    )


def effect(metric: Json) -> str | None:
    """What a metric's difference says; None where there is none, or neither way is better.

    A change is claimed where its interval leaves out 0 and its p value, adjusted for the other
    metrics where that was done, is below 0.05.
    """
    difference = _difference(metric)
    if difference is None or metric["better"] is None:
        return None
    p = _p(difference)
    if (p is not None and p >= SIGNIFICANCE) or difference["low"] <= 0 <= difference["high"]:
        return "cannot tell"
    return "better" if (difference["mean"] > 0) == (metric["better"] == "higher") else "worse"


def effect_badge(metric: Json) -> str:
    """Show what a metric's difference says as a word with a sign."""
    found = effect(metric)
    return f'<span class="effect {_tone(found)}">{_MARKS[found]} {found}</span>' if found else ""


def number(value: Number, unit: str, estimate: Json, *, signed: bool = False) -> str:
    """Write a mean or an end of its interval with the digits that ``estimate`` warrants.

    >>> number(0.957, "rate", {"mean": 0.957, "num": 72}), number(-41.6, "words", {"mean": -41.6})
    ('0.96', '−42')
    """
    many, small = estimate.get("num", 0) > 200, abs(estimate["mean"]) < 10
    digits = {"rate": 3 if many else 2, "nats": 3, "ratio": 2}.get(unit, 1 if small else 0)
    return f"{value:{'+' if signed else ''}z,.{digits}f}".replace("-", "−")


def metrics_table(task: Json, sides: Sequence[Json]) -> str:
    """Show the metrics by group, those of a unit on one axis, with their differences."""
    blocks: dict[tuple[str, str], list[Json]] = {}
    for metric in task["metrics"]:
        blocks.setdefault((metric["group"], metric["unit"]), []).append(metric)
    if not blocks:
        return '<p class="dim">No metric was measured.</p>'
    bodies = []
    for (group, unit), metrics in sorted(blocks.items(), key=lambda of: _order(of[0][0])):
        scale = _scale(unit, metrics, sides)
        ends = [of[end] for m in metrics if (of := _difference(m)) for end in ("low", "high")]
        around = scale_around_zero(ends)
        counted = "" if unit == "rate" else f" <small>{escaped(unit)}</small>"
        heads = "".join(
            f'<th scope="col" class="num s{place}">{escaped(side["title"])}</th>'
            for place, side in enumerate(sides)
        )
        title = _GROUPS.get(group, group.capitalize())
        apart = f'<td class="chart">{axis(around, signed=True)}</td><th scope="col">difference</th>'
        bodies.append(
            f'<tbody><tr class="head"><th scope="rowgroup">{escaped(title)}{counted}</th>'
            f'<td class="chart">{axis(scale)}</td>{heads}{apart if len(sides) > 1 else ""}</tr>'
        )
        bodies += [_metric_row(metric, sides, scale, around) for metric in metrics]
        bodies.append("</tbody>")
    kind = "metrics" if len(sides) > 1 else "metrics alone"
    names = ("name", "chart", *("num" for _ in sides), *(("apart", "told") if sides[1:] else ()))
    columns = "".join(f'<col class="{name}">' for name in names)
    return (
        f'<div class="card"><table class="{kind}"><caption class="hidden">Metrics of '
        f"{escaped(task['name'])} with 95% intervals</caption>"
        f"<colgroup>{columns}</colgroup>{''.join(bodies)}</table></div>"
    )


def _metric_row(metric: Json, sides: Sequence[Json], scale: Scale, around: Scale) -> str:
    unit, cells = metric["unit"], []
    for place, side in enumerate(sides):
        estimate = metric[side["key"]]
        value = "–" if estimate is None else number(estimate["mean"], unit, estimate)
        name = f'<span class="who s{place}">{escaped(side["title"])}</span>'
        cells.append(f'<td class="num">{name}{value}<small>{_range(estimate, unit)}</small></td>')
    marks = [_side_mark(place, side, metric) for place, side in enumerate(sides)]
    if len(sides) > 1:
        cells += _difference_cells(metric, around)
    return (
        f'<tr><th scope="row">{escaped(metric["title"])}</th><td class="chart">'
        f"{strip(scale, marks, _about(metric, sides))}</td>{''.join(cells)}</tr>"
    )


def _difference_cells(metric: Json, around: Scale) -> Iterator[str]:
    found, unit = _difference(metric), metric["unit"]
    if found is None:
        empty = strip(around, [], f"{metric['title']}: no pairs")
        yield f'<td class="chart">{empty}</td>'
        yield '<td class="told"><span class="who">change</span>–<small>no pairs</small></td>'
        return
    told = number(found["mean"], unit, found, signed=True)
    ends, kind = _range(found, unit, True), _tone(effect(metric)) or "plain"
    mark = Mark(kind, f"{told} ({ends})", found["mean"], found["low"], found["high"])
    about = f"{metric['title']}, difference: {told}, {ends}"
    adjusted = "Holm " if found.get("p_adjusted") is not None else ""
    chance = "" if (p := _p(found)) is None else f"{adjusted}p {escaped(_rounded(p))}"
    yield f'<td class="chart">{strip(around, [mark], about)}</td>'
    yield (
        f'<td class="told"><span class="who">change</span>{told}<small>{ends}</small>'
        f'<span class="test">{effect_badge(metric)}<small>{chance}</small></span></td>'
    )


def _scale(unit: str, metrics: Sequence[Json], sides: Sequence[Json]) -> Scale:
    if unit == "rate":
        return RATES
    found = [of for m in metrics for side in sides if (of := m[side["key"]])]
    return scale_of(of[end] for of in found for end in ("low", "mean", "high"))


def _side_mark(place: int, side: Json, metric: Json) -> Mark | None:
    of = metric[side["key"]]
    if of is None:
        return None
    title = f"{side['title']}: {number(of['mean'], metric['unit'], of)}"
    return Mark(f"s{place}", title, of["mean"], of["low"], of["high"])


def _about(metric: Json, sides: Sequence[Json]) -> str:
    told = (
        f"{side['title']} {number(of['mean'], metric['unit'], of)}, {_range(of, metric['unit'])}"
        for side in sides
        if (of := metric[side["key"]])
    )
    return f"{metric['title']}: {'; '.join(told) or 'not measured'}"


def _range(estimate: Json | None, unit: str, signed: bool = False) -> str:
    if estimate is None:
        return ""
    low, high = (number(estimate[end], unit, estimate, signed=signed) for end in ("low", "high"))
    return f"{low} to {high}"


def _difference(metric: Json) -> Json | None:
    return metric.get("difference")


def _p(difference: Json) -> Number | None:
    adjusted = difference.get("p_adjusted")
    return difference.get("p") if adjusted is None else adjusted


def _rounded(p: Number) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _order(group: str) -> int:
    return list(_GROUPS).index(group) if group in _GROUPS else len(_GROUPS)


def _tone(outcome: str | None) -> str:
    return (outcome or "").replace(" ", "-")
