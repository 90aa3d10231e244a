"""One task on the evaluation page: its metrics, pairs, lengths, reliability and references."""

from collections.abc import Iterator, Sequence

from thinktune.data.charts import escaped, number_of, share
from thinktune.evaluation.page_charts import (
    RATES,
    Curve,
    Mark,
    distribution,
    part_bar,
    plot,
    share_bar,
    whiskers,
)
from thinktune.evaluation.page_metrics import Json, headline, metrics_table

_PAIRS = (("both", "right"), ("only_after", "fixed"), ("only_before", "broken"))


def task_section(task: Json, sides: Sequence[Json], told: Sequence[str]) -> str:
    """Show all of a task; sentences among ``told`` already stand above on the page."""
    again = [sentence for sentence in task["warnings"] if sentence not in told]
    verdict = headline(task["outcome"], task["verdict"])
    asked = number_of(task["num_questions"], "question")
    if task["num_samples"] > 1:
        asked += f", {task['num_samples']} samples each"
    parts = [
        f"<h2>{escaped(task['name'])} <small>{asked}</small></h2>",
        "" if task["verdict"] in told or not task["verdict"] else f"<p>{verdict}</p>",
        warning_list(again),
        metrics_table(task, sides),
        '<div class="grid">',
        _pairs(task, sides),
        *_lengths(task, sides),
        _reliability(task, sides),
        _references(task, sides),
        "</div>",
    ]
    return f'<section class="task">{"".join(parts)}</section>'


def warning_list(sentences: Sequence[str]) -> str:
    """Show warnings, or nothing where there are none."""
    items = "".join(f"<li>{escaped(sentence)}</li>" for sentence in sentences)
    return f'<ul class="warnings" aria-label="Warnings">{items}</ul>' if items else ""


def _pairs(task: Json, sides: Sequence[Json]) -> str:
    pairs = task["pairs"]
    if not pairs or len(sides) < 2:
        return ""
    before, after = (escaped(side["title"]) for side in sides)
    names = {
        "right": "right on both sides",
        "fixed": f"right only {after}",
        "broken": f"right only {before}",
        "wrong": "right on neither",
    }
    counts = {kind: pairs[key] for key, kind in (*_PAIRS, ("neither", "wrong"))}
    whole = sum(counts.values())
    legend = "".join(
        f'<li class="{kind}"><a href="#questions" data-filter="{kind}" data-task='
        f'"{escaped(task["name"])}"><b>{counts[kind]:,}</b> {names[kind]} '
        f"<small>{share(counts[kind], whole)}</small></a></li>"
        for kind in counts
    )
    about = "; ".join(f"{counts[kind]:,} {names[kind]}" for kind in counts)
    bar = part_bar([(kind, names[kind], counts[kind]) for kind in counts], about)
    return figure("Question by question", f'{bar}<ul class="legend">{legend}</ul>', "wide")


def _lengths(task: Json, sides: Sequence[Json]) -> Iterator[str]:
    for part, lengths in task["lengths"].items():
        given = [(f"s{n}", of["title"], lengths.get(of["key"], [])) for n, of in enumerate(sides)]
        if any(of for *_, of in given):
            title = f"{part.capitalize()} words, where closed"
            yield figure(title, distribution(title, given))


def _reliability(task: Json, sides: Sequence[Json]) -> str:
    marks, told = [], []
    for place, side in enumerate(sides):
        found = (task["reliability"] or {}).get(side["key"])
        if not found or not found["bins"]:
            continue
        told.append(f"{side['title']} {found['error']:.2f}")
        for of in found["bins"]:
            name = (
                f"{side['title']}: {number_of(of['num'], 'question')}, agreement "
                f"{of['confidence']:.2f}, right {of['accuracy']:.2f}"
            )
            ends = of["interval"]
            mark = Mark(f"s{place}", name, of["accuracy"], ends["low"], ends["high"])
            marks.append((of["confidence"], mark))
    if not marks:
        return ""
    about = f"Expected calibration error: {', '.join(told)}."
    even = Curve("even", "as often right as sure", [(0.0, 0.0), (1.0, 1.0)])
    drawn = plot(RATES, RATES, [even], about, whiskers(RATES, RATES, marks))
    note = (
        '<p class="dim">Across: how many of the samples agree. Up: how many of those are right. '
        f"Dashed: as often right as sure. {escaped(about)}</p>"
    )
    return figure("Is it as often right as it is sure?", drawn + note)


def _references(task: Json, sides: Sequence[Json]) -> str:
    if not task["by_reference"]:
        return ""
    heads = "".join(
        f'<th scope="col" class="s{place}">{escaped(side["title"])}</th>'
        for place, side in enumerate(sides)
    )
    last = escaped(f"given instead, {sides[-1]['title']}" if len(sides) > 1 else "given instead")
    rows = []
    for of in task["by_reference"]:
        cells = "".join(
            f'<td class="num">{of[side["key"]]:,}{share_bar(f"s{n}", of[side["key"]], of["num"])}'
            "</td>"
            for n, side in enumerate(sides)
        )
        rows.append(
            f'<tr><th scope="row">{escaped(of["reference"])}</th><td class="num">{of["num"]:,}</td>'
            f'{cells}<td class="instead">{escaped(of["instead"] or "")}</td></tr>'
        )
    table = (
        '<div class="across"><table class="references"><thead><tr><th scope="col">reference</th>'
        f'<th scope="col">questions</th>{heads}<th scope="col">{last}</th></tr></thead><tbody>'
        f"{''.join(rows)}</tbody></table></div>"
    )
    return figure("Right, by reference", table, "wide")


def figure(title: str, inside: str, kind: str = "") -> str:
    """Put a title over a drawing; ``inside`` is HTML."""
    return f'<figure class="card {kind}"><figcaption>{escaped(title)}</figcaption>{inside}</figure>'
