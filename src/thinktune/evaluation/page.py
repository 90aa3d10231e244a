"""An evaluation as one HTML page that needs no network: verdict, charts, and every question."""

import hashlib
import json
import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.resources import files
from string import Template

from thinktune.data.charts import escaped, number_of
from thinktune.evaluation.page_charts import (
    RATES,
    Curve,
    Number,
    finite,
    plot,
    scale_of,
    scale_of_steps,
)
from thinktune.evaluation.page_metrics import Json, headline, panel
from thinktune.evaluation.page_tasks import figure, task_section, warning_list

_UNSAFE = re.compile(r"[<>&\u2028\u2029\ud800-\udfff]")
"""What could end or confuse a script element, or has no UTF-8."""
_PARTS = {
    "tasks": "Metrics",
    "training": "Training",
    "questions": "Questions",
    "repeat": "Repeat",
}
_LOSSES = (("loss_reasoning", "reasoning"), ("loss_answer", "answer"))
_PROBED = (("pass_at_1", "strict accuracy"), ("closure_rate", "reasoning closed"))
_MEANINGS = (
    (
        "Strict accuracy (pass@1)",
        "the reasoning was closed and the answer gives the reference and nothing else; the mean "
        "over samples where a question was asked more than once.",
    ),
    (
        "Lenient accuracy",
        "the reference is what is given first, whatever stands around it and whether or not the "
        "reasoning was closed.",
    ),
    (
        "Unfinished",
        "the reasoning was never closed, mostly because the token limit came first: neither right "
        "nor wrong, counted apart, and never strictly right.",
    ),
    (
        "Intervals",
        "95% each. Wilson's for a rate, Newcombe's for the difference of two rates on the same "
        "questions, and a bootstrap over questions for everything else.",
    ),
    (
        "p values",
        "exact McNemar test where each question is right or wrong, else a permutation test of the "
        "paired differences. Holm p: Holm's correction over the metrics of a task, so that one "
        "of many does not seem to have changed by chance.",
    ),
    (
        "Better, worse, cannot tell",
        "a change is claimed only where the interval of the difference leaves out 0 and p is below "
        "0.05. Cannot tell does not mean equal: more questions may tell.",
    ),
)


def to_page(content: Mapping[str, object]) -> str:
    """Give an evaluation as a page, the same for the same content.

    Everything in ``content`` is text, never markup; the page's own policy forbids any script but
    its own and any request. All but the browser of questions shows without JavaScript.

    Memory: at its peak twice the page, which holds the questions whole as JSON.

    Raises:
        ValueError: a question holds a number that JSON has not, such as NaN.
    """
    whole: Json = content
    style = _asset("evaluation.css")
    script = f'"use strict";{{\n{_asset("question_card.js")}{_asset("evaluation.js")}}}'
    questions = whole["questions"]
    told = [whole["verdict"], *whole["warnings"]]
    tasks = "".join(task_section(task, whole["sides"], told) for task in whole["tasks"])
    parts = [
        _header(whole),
        f'<div id="tasks">{tasks}</div>' if tasks else "",
        _curves(whole["curves"]),
        _browser(len(questions)),
        _repeat(whole["repeat"]),
    ]
    body = "\n".join(part for part in parts if part)
    title = f"{whole['outcome'].capitalize()}: " if whole["outcome"] else ""
    return Template(_asset("evaluation.html")).substitute(
        title=escaped(title + whole["title"]),
        policy=f"default-src 'none'; base-uri 'none'; form-action 'none'; "
        f"style-src '{_hash(style)}'; script-src '{_hash(script)}'",
        style=style,
        script=script,
        kind="one-side" if len(whole["sides"]) == 1 else "two-sides",
        links=_links(body),
        body=body,
        data=_data({"sides": whole["sides"], "questions": questions}),
    )


def _asset(name: str) -> str:
    return files("thinktune").joinpath("assets", "page", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _data(value: object) -> str:
    """JSON that no parser of HTML takes for anything else; it means the same."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return _UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _links(body: str) -> str:
    """Links to the parts that are there; text cannot pass for one, as its quotes are escaped."""
    return "".join(
        f'<a href="#{part}">{name}</a>' for part, name in _PARTS.items() if f'id="{part}"' in body
    )


def _header(whole: Json) -> str:
    sides, created = whole["sides"], datetime.fromisoformat(whole["created"])
    about = "".join(
        f'<div><dt class="s{place}">{escaped(side["title"])}</dt>'
        f"<dd>{escaped(side['about'])}</dd></div>"
        for place, side in enumerate(sides)
    )
    tasks = sorted(whole["tasks"], key=lambda task: task["purpose"] != "domain")
    panels = "".join(panel(task, sides) for task in tasks)
    chart = f'<figure class="card panels" aria-label="Main metric">{panels}</figure>'
    return (
        f'<header><p class="title">{escaped(whole["title"])} <time datetime="'
        f'{escaped(whole["created"])}">{created:%Y-%m-%d %H:%M %Z}</time></p>'
        f'<h1 class="verdict">{headline(whole["outcome"], whole["verdict"])}</h1>'
        f'<dl class="about">{about}</dl>{chart if panels else ""}'
        f"{warning_list(whole['warnings'])}</header>"
    )


def _curves(curves: Json | None) -> str:
    """Losses over steps, and below them the probe on an axis of its own."""
    if not curves:
        return ""
    lines, keys = _loss_lines(curves)
    probes = [
        Curve(f"probe {key}", name, points, dotted=True)
        for key, name in _PROBED
        if (points := _points(curves["probe"], key))
    ]
    if not lines and not probes:
        return ""
    steps = scale_of_steps([x for curve in (*lines, *probes) for x, _ in curve.points])
    drawn = []
    if lines:
        top = scale_of(y for line in lines for _, y in line.points)
        note = '<p class="dim">Thin: the rows trained on. Thick: held out. Across: steps.</p>'
        inside = _key(keys) + plot(steps, top, lines, _about(lines)) + note
        drawn.append(figure("Loss, nats a target token", inside, "wide"))
    if probes:
        asked = max((of.get("num") or 0 for of in curves["probe"]), default=0)
        note = f'<p class="dim">{number_of(asked, "question")} each time. Across: steps.</p>'
        named = [(curve.kind, curve.title) for curve in probes]
        inside = _key(named) + plot(steps, RATES, probes, _about(probes)) + note
        drawn.append(figure("The same questions asked during training", inside, "wide low"))
    return (
        '<section id="training"><h2>Training</h2><div class="grid">'
        f"{''.join(drawn)}</div></section>"
    )


def _loss_lines(curves: Json) -> tuple[list[Curve], list[tuple[str, str]]]:
    """Curves of reasoning and answer apart, or of the whole loss where they were not told apart."""
    of_rows = (("train", "trained on"), ("heldout", "held out"))
    for losses in (_LOSSES, (("loss", "whole completion"),)):
        lines = [
            Curve(f"{rows} {key}", f"{name}, {what}", points, dotted=rows == "heldout")
            for key, name in losses
            for rows, what in of_rows
            if (points := _points(curves[rows], key))
        ]
        if lines:
            return lines, [(key, name) for key, name in losses]
    return [], []


def _points(rows: Sequence[Json], key: str) -> list[tuple[Number, Number]]:
    return finite((row["step"], row.get(key)) for row in rows or ())


def _key(named: Sequence[tuple[str, str]]) -> str:
    items = "".join(f'<li class="{kind}">{name}</li>' for kind, name in named)
    return f'<ul class="key">{items}</ul>'


def _about(curves: Sequence[Curve]) -> str:
    told = (f"{of.title} from {of.points[0][1]:.3g} to {of.points[-1][1]:.3g}" for of in curves)
    return "; ".join(told)


def _browser(num_questions: int) -> str:
    if not num_questions:
        return ""
    return (
        f'<section id="questions"><h2>Questions <small>{num_questions:,}</small></h2><noscript>'
        "<p>Reading question by question needs JavaScript; nothing is loaded from anywhere.</p>"
        '</noscript><div class="browser" id="browser" hidden><div class="tools">'
        '<div class="filters" role="group" aria-label="Show questions by outcome" id="filters">'
        '</div><div class="filters" role="group" aria-label="Show questions by task" id="by-task">'
        '</div><div class="seek"><input type="search" id="search" aria-label="Search questions, '
        'answers, reasoning and references" placeholder="Search  ( / )" autocomplete="off" '
        'spellcheck="false"><button type="button" id="unfold" aria-pressed="false">Unfold reasoning'
        '</button></div></div><p class="dim" id="count" role="status"></p><div id="cards"></div>'
        '<button type="button" id="more" hidden>Show more</button></div></section>'
    )


def _repeat(repeat: Json) -> str:
    facts = "".join(
        f"<div><dt>{escaped(name)}</dt><dd>{escaped(value)}</dd></div>"
        for name, value in repeat["facts"]
    )
    meanings = "".join(f"<dt>{name}</dt><dd>{meaning}</dd>" for name, meaning in _MEANINGS)
    return (
        '<section id="repeat"><h2>To repeat this</h2><div class="card">'
        f'<pre><code>{escaped(repeat["command"])}</code></pre><dl class="facts">{facts}</dl></div>'
        f'<h3>What the words mean</h3><dl class="meanings">{meanings}</dl></section>'
    )
