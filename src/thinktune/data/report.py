"""What an inspection found as one HTML page that needs no script, network or other file."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from thinktune import atomic
from thinktune.data.charts import (
    NUM_BARS,
    bars,
    escaped,
    halves,
    histogram,
    number_of,
    share,
    stacked,
)
from thinktune.data.faults import NAMED_ROWS, Fault, Severity
from thinktune.data.inspection import MAX_REFERENCES, Inspection, Quantiles, TokenLengths
from thinktune.data.provenance import tool
from thinktune.data.row_names import MAX_LINE, fold
from thinktune.data.template import Overlong

ROOM = 240_000
"""Bytes of a page for names of rows, shared alike by its findings; the rest is counted."""
MAX_FINDINGS = 100
"""Findings with cards of their own; the rest is counted."""
_REPEATED = re.compile("same question|among the held-out questions")
_COMMAND = re.compile(r"\b(thinktune (?:data )?[a-z]+(?: --[a-z-]+(?: [a-z]+)?)*)(?=[,)])")
_SCRIPTS = {
    "traditional": "Traditional Chinese",
    "simplified": "Simplified Chinese",
    "han": "Chinese, either kind",
    "mixed_han": "mixed Chinese",
    "none": "no letters",
}
_LANGUAGES = {
    **{"traditional": "zh-Hant", "simplified": "zh-Hans", "han": "zh", "mixed_han": "zh"},
    **{"japanese": "ja", "korean": "ko"},
}
_POLICIES = {
    Overlong.DROP: "longer rows are left out",
    Overlong.SHORTEN_REASONING: "sentences go from the middle of longer reasoning",
    Overlong.FAIL: "training refuses longer rows",
}
_STYLE = """
:root{color-scheme:light dark;--page:#f6f7f9;--card:#fff;--text:#1b1f24;--dim:#5b6570;
--line:#dfe3e8;--bar:#4269d0;--error:#c02d26;--warning:#9a6200;--note:#2a63ad;--good:#1d7a3c;--mark:#d4510b}
@media (prefers-color-scheme:dark){:root{--page:#14171b;--card:#1d2126;--text:#e7eaee;--dim:#a0a9b3;
--line:#343a42;--bar:#7a9bf0;--error:#ff8078;--warning:#efb64f;--note:#82b4f5;--good:#6cce8b;
--mark:#ff9a5c}}
*{box-sizing:border-box}body{margin:0;background:var(--page);color:var(--text);line-height:1.5;overflow-wrap:anywhere;
font-family:system-ui,"Segoe UI","Helvetica Neue",Arial,"Noto Sans","PingFang TC",
"Microsoft JhengHei","PingFang SC","Microsoft YaHei","Noto Sans CJK TC",sans-serif}
main{max-width:1120px;margin:0 auto;padding:24px 16px}
h1{font-size:1rem;font-weight:600;color:var(--dim);margin:0}
h2{font-size:1.2rem;margin:36px 0 12px}h3{font-size:1rem;margin:0}p{margin:6px 0}
.dim{color:var(--dim)}small{color:var(--dim)}code{font:.9em ui-monospace,monospace}
.verdict{font-size:1.7rem;font-weight:700;line-height:1.25;margin:4px 0 16px}
.error{--tone:var(--error)}.warning{--tone:var(--warning)}.note{--tone:var(--note)}
.good{--tone:var(--good)}.verdict,.word{color:var(--tone)}
.word{font-weight:700;text-transform:uppercase;font-size:.75rem;letter-spacing:.05em;margin-right:8px}
.counts{display:flex;flex-wrap:wrap;gap:12px 36px;margin:0}.counts dt{color:var(--dim)}
.counts dd{margin:0;font-size:1.35rem;font-weight:600}.counts small{font-size:.9rem;font-weight:400}
.card,figure{background:var(--card);border:1px solid var(--line);border-radius:8px;
padding:14px 16px;margin:0 0 12px;break-inside:avoid}
.finding{border-left:5px solid var(--tone);display:grid;grid-template-columns:1fr auto;
gap:4px 16px;padding:10px 14px}.finding>*{margin:0;grid-column:1/-1}.finding>h3{grid-column:1}
.finding>.rows{grid-column:2;text-align:right}@media (max-width:640px){.finding>.rows{grid-column:1;
text-align:left}}details ul{padding-left:20px;margin:8px 0;columns:22em}li{break-inside:avoid}
.finding details,.card details{font-size:.9rem}summary{cursor:pointer;color:var(--note)}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(300px,100%),1fr));gap:12px;
align-items:start}.grid figure{margin:0}
figcaption{font-weight:600;margin-bottom:8px}svg{display:block;width:100%;max-width:520px}
svg text{font-size:13px;fill:var(--text);paint-order:stroke;stroke:var(--card);stroke-width:4px}
svg .key{font-size:12px}svg .dim,svg .key{fill:var(--dim)}svg .end{text-anchor:end}
svg .mid{text-anchor:middle}svg path{stroke:var(--line);fill:none}svg .bar{fill:var(--bar)}
svg .track{fill:var(--line)}svg path.median{stroke:var(--mark);stroke-width:2}
svg path.p95{stroke:var(--mark);stroke-width:2;stroke-dasharray:4 3}svg text.median,svg text.p95{
fill:var(--mark);font-weight:600}.c0{fill:#4269d0}.c1{fill:#efb118}.c2{fill:#e4572e}.c3{fill:#3ca9a0}
.c4{fill:#a463f2}.c5{fill:#97a0aa}.wide{overflow-x:auto}table{width:100%;border-collapse:collapse;
font-variant-numeric:tabular-nums}th,td{padding:5px 8px;text-align:right;
border-bottom:1px solid var(--line);white-space:nowrap}th:first-child{text-align:left}
thead th{color:var(--dim);font-weight:400}tbody th{font-weight:400}th[scope=rowgroup]{
font-weight:600;padding-top:14px}@media (min-width:641px){th:first-child{width:40%}}
@media (max-width:640px){.wide{padding:8px}th,td{padding:5px 4px;font-size:.9rem}}
@media print{:root{color-scheme:light;--page:#fff;--card:#fff;--text:#000;--dim:#444;--line:#bbb;
--bar:#4269d0;--error:#b3201a;--warning:#7d5000;--note:#1f4f8f;--good:#156430;--mark:#b84300}
*{print-color-adjust:exact;-webkit-print-color-adjust:exact}h2{break-after:avoid}
.grid{grid-template-columns:1fr 1fr}}
"""


def write_report(
    path: Path, inspection: Inspection, source: str, *, template: str | None = None
) -> None:
    """Write the page to ``path``, whole or not at all; it names the day it was written.

    Args:
        path: replaced if it is there; its folder is made if it is not.
        inspection: what to show.
        source: what was inspected, as the user calls it.
        template: the model whose template counted the tokens, as the user calls it.
    """
    written = datetime.now(UTC)
    atomic.write_text(path, to_html(inspection, source, template=template, written=written))


def to_html(
    inspection: Inspection,
    source: str,
    *,
    template: str | None = None,
    written: datetime | None = None,
) -> str:
    """Give an inspection as a page, however much was found below 400 KB.

    Text from the data is escaped, and the page itself forbids scripts and whatever lies outside.
    The same arguments give the same page.
    """
    tone, verdict = _verdict(inspection.faults)
    lang = _lang(inspection.scripts)
    room = ROOM // (min(len(inspection.faults), MAX_FINDINGS) + 2)
    on = f", {written:%Y-%m-%d %H:%M} UTC" if written else ""
    parts = [
        f'<header class="card"><h1>Data inspection: {escaped(source, MAX_LINE)}</h1>',
        f'<p class="verdict {tone}">{verdict}</p>{_counts(inspection)}</header>',
        *_findings(inspection, room, lang),
        *_plots(inspection, lang),
        *_lengths(inspection),
        *_tokens(inspection.tokens, inspection.num_examples, template, room, lang),
        f"<footer><p><small>Written by {escaped(tool())}{on}.</small></p></footer>",
    ]
    body = "\n".join(parts)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{verdict}: {escaped(source, MAX_LINE)}</title>\n<style>{_STYLE}</style>\n"
        f"</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )


def _verdict(faults: Sequence[Fault]) -> tuple[str, str]:
    counts = Counter(fault.severity for fault in faults)
    told = [number_of(counts[severity], severity) for severity in Severity if counts[severity]]
    if not told:
        return "good", "Nothing wrong found"
    worst = next(severity for severity in Severity if counts[severity])
    if worst is Severity.ERROR:
        return worst, ", ".join((f"{told[0]} to mend before training", *told[1:]))
    none = "No errors" if worst is Severity.WARNING else "No errors or warnings"
    return worst, f"{none}, {', '.join(told)}"


def _counts(inspection: Inspection) -> str:
    rows, usable = inspection.num_rows, inspection.num_examples
    shown = [("rows", rows, ""), ("usable", usable, share(usable, rows))]
    if inspection.num_unusable:
        unusable = inspection.num_unusable
        shown.append(("cannot be used", unusable, share(unusable, rows)))
    for name, number in (
        ("with reference", inspection.num_with_reference),
        ("with system prompt", inspection.num_with_system),
        ("with earlier turns", inspection.num_with_history),
    ):
        if number:
            shown.append((name, number, share(number, usable)))
    compared = "compared" if inspection.num_heldout else "nothing to compare with"
    shown.append(("held out", inspection.num_heldout, compared))
    told = (f"<dt>{n}</dt><dd>{v:,} <small>{s}</small></dd>" for n, v, s in shown)
    return f'<dl class="counts">{"".join(f"<div>{one}</div>" for one in told)}</dl>'


def _findings(inspection: Inspection, room: int, lang: str) -> Iterator[str]:
    yield "<section><h2>Findings</h2>"
    if not inspection.faults:
        yield "<p>No finding: nothing needs to be mended.</p>"
    for fault in inspection.faults[:MAX_FINDINGS]:
        told = number_of(fault.num_rows, "row")
        way_out = _COMMAND.sub(r"<code>\1</code>", escaped(fault.way_out, MAX_LINE))
        yield (
            f'<article class="card finding {fault.severity}"><h3><span class="word">'
            f"{fault.severity}</span>{escaped(fault.what, MAX_LINE)}</h3>"
            f'<p class="rows"><b>{told}</b> {share(fault.num_rows, inspection.num_rows)} of all</p>'
            f"<p>Way out: {way_out}</p>{fold(fault.rows, fault.num_rows, room, lang)}</article>"
        )
    if more := inspection.faults[MAX_FINDINGS:]:
        yield f"<p>And {number_of(len(more), 'finding')} more, none of them graver.</p>"
    yield "</section>"


def _plots(inspection: Inspection, lang: str) -> Iterator[str]:
    if not inspection.num_examples:
        yield "<section><h2>Lengths</h2><p>No row can be used: nothing to measure.</p></section>"
        return
    yield '<section><h2>Words</h2><div class="grid">'
    for field, lengths in inspection.words.items():
        title = f"Words of the {field}"
        yield _figure(
            title, histogram(f"words-{field}", title, inspection.histograms[field], lengths)
        )
    yield '</div></section><section><h2>What is in it</h2><div class="grid">'
    yield _references(inspection, lang)
    named = {
        field: {_SCRIPTS.get(of, of.capitalize()): number for of, number in counted.items()}
        for field, counted in inspection.scripts.items()
        if counted
    }
    if named:
        yield _figure("Scripts", stacked("scripts", "Scripts by field", named))
    again = [(of.what, of.num_rows) for of in inspection.faults if _REPEATED.search(of.what)]
    whole = inspection.num_rows
    none = "<p>No question was found twice.</p>"
    chart = bars("repeated", "Rows by how they repeat", again, whole, whole) if again else none
    yield _figure("Repeated questions", chart)
    yield "</div></section>"


def _references(inspection: Inspection, lang: str) -> str:
    items, whole = list(inspection.references.items()), inspection.num_with_reference
    title = "References"
    if not whole:
        return _figure(title, "<p>No row has a reference.</p>")
    if not items:
        few = f"<p>{MAX_REFERENCES:,} different ones or more: too many for a chart.</p>"
        return _figure(title, few)
    chart = bars("references", "Rows by reference", items, whole, items[0][1])
    rest = ""
    if more := items[NUM_BARS:]:
        rows = number_of(sum(number for _, number in more), "row")
        rest = f'<p class="dim">and {len(more):,} more in {rows}</p>'
    return _figure(title, f"<div{lang}>{chart}</div>{rest}")


def _lengths(inspection: Inspection) -> Iterator[str]:
    if not inspection.num_examples:
        return
    yield (
        '<section><h2>Lengths</h2><div class="card wide"><table><thead><tr><td></td>'
        + "".join(f'<th scope="col">{of}</th>' for of in ("least", "median", "95%", "most"))
        + "</tr></thead>"
    )
    tokens = inspection.tokens.segments if inspection.tokens else {}
    groups = {"Words": inspection.words, "Characters": inspection.characters, "Tokens": tokens}
    for unit, lengths in groups.items():
        if lengths:
            yield f'<tbody><tr><th colspan="5" scope="rowgroup">{unit}</th></tr>'
            yield from (_length_row(name, of) for name, of in lengths.items())
            yield "</tbody>"
    yield (
        '</table></div><p class="dim">95%: so many rows in a hundred are no longer. A Chinese or '
        "Japanese character counts as a word.</p></section>"
    )


def _length_row(name: str, of: Quantiles) -> str:
    numbers = (f"{of.minimum:,}", halves(of.median), f"{of.p95:,}", f"{of.maximum:,}")
    cells = "".join(f"<td>{number}</td>" for number in numbers)
    return f'<tr><th scope="row">{escaped(name)}</th>{cells}</tr>'


def _tokens(
    tokens: TokenLengths | None, num_rows: int, template: str | None, room: int, lang: str
) -> Iterator[str]:
    yield "<section><h2>Length limit</h2>"
    if tokens is None:
        yield "<p>Tokens were not counted; <code>--template-of MODEL</code> counts them.</p>"
    else:
        if template:
            yield f"<p>Tokens as {escaped(template, MAX_LINE)} has them.</p>"
        if tokens.max_length is None:
            yield "<p>There is no limit; <code>--max-length N</code> sets one.</p>"
        else:
            limit = f"{tokens.max_length:,} tokens a row"
            yield f"<p><b>{limit}</b>; {_POLICIES[tokens.overlong]}.</p>"
            for what, rows, unit in (
                ("do not fit", tokens.dropped, "tokens"),
                ("fit once they are shortened", tokens.shortened, "tokens removed"),
            ):
                names = [f"{name}: {number:,} {unit}" for name, number in rows[:NAMED_ROWS]]
                told = f"<b>{number_of(len(rows), 'row')}</b>, {share(len(rows), num_rows)}"
                yield f'<div class="card"><p>{told}, {what}.</p>'
                yield f"{fold(names, len(rows), room, lang)}</div>"
    yield "</section>"


def _figure(title: str, inside: str) -> str:
    return f"<figure><figcaption>{title}</figcaption>{inside}</figure>"


def _lang(scripts: Mapping[str, Mapping[str, int]]) -> str:
    """The attribute that lets a browser choose the right shapes of Han characters."""
    counts = sum((Counter(of) for of in scripts.values()), Counter[str]())
    most = max(counts, key=lambda script: counts[script], default="")
    return f' lang="{_LANGUAGES[most]}"' if most in _LANGUAGES else ""
