import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.tokenizers import r1_llama
from thinktune.data.charts import bin_rows, escaped
from thinktune.data.example import Example
from thinktune.data.faults import Fault, Severity
from thinktune.data.formats import Row
from thinktune.data.inspection import Inspection, Quantiles, inspect
from thinktune.data.report import MAX_FINDINGS, to_html, write_report
from thinktune.data.sources import Unusable
from thinktune.data.template import Overlong, Template, TemplateConfig

VOID = {"meta", "br", "hr", "img", "link", "input", "col", "base", "wbr"}
HOSTILE = (
    '</title></ul><script>alert(1)</script><img src=x onerror="alert(2)">&amp; \x00\ud800\u202e'
)


class Page(HTMLParser):
    """Tags, texts by the tag they are in, and what no valid page has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.texts: dict[str, list[str]] = {}
        self.attributes: list[tuple[str, str, str]] = []
        self.wrong: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.wrong += [f"{tag} is never closed" for tag in self._open]
        ids = Counter(value for _, name, value in self.attributes if name == "id")
        self.wrong += [
            f"id {name} is there {count} times" for name, count in ids.items() if count > 1
        ]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_startendtag(tag, attrs)
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.wrong.append(f"</{tag}> closes something else")

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.setdefault(self._open[-1] if self._open else "", []).append(data.strip())

    @property
    def said(self) -> str:
        return " ".join(
            text for tag, texts in self.texts.items() if tag != "style" for text in texts
        )


def page_of(inspection: Inspection, source: str = "train.jsonl", **more: str) -> Page:
    page = Page(to_html(inspection, source, **more))
    assert page.wrong == []
    return page


def example(number: int, **more: str) -> Example:
    texts = {
        "question": f"Patient {number} coughs. " + "And it hurts. " * (number % 7),
        "reasoning": f"First the {number} signs are weighed. " * (number % 5 + 2),
        "answer": f"Rest for {number} days.",
        "reference": ("cold", "influenza", "bronchitis")[number % 3],
    }
    return Example(**{**texts, **more}, where=f"train.jsonl row {number}")


def examples(count: int) -> list[Example]:
    return [example(number) for number in range(1, count + 1)]


def with_faults(faults: Iterable[Fault]) -> Inspection:
    return replace(inspect(examples(11)), faults=tuple(faults))


def fault(rows: Iterable[str] = (), num_rows: int | None = None, **more: str) -> Fault:
    rows = tuple(rows)
    told = {"what": "something is wrong", "way_out": "mend it", **more}
    return Fault(
        Severity.ERROR,
        told["what"],
        rows,
        told["way_out"],
        len(rows) if num_rows is None else num_rows,
    )


def test_counts_lengths_and_references_on_the_page_are_the_inspections() -> None:
    rows = [*examples(37), Unusable(Row("train.jsonl", 38, {}), ("no answer",))]
    found = inspect(rows, heldout=examples(2))
    page = page_of(found)
    assert page.texts["dd"] == ["38", "37", "1", "37", "2"]
    told = [of for group in (found.words, found.characters) for of in group.values()]
    assert page.texts["td"] == [
        text
        for of in told
        for text in (
            str(of.minimum),
            f"{of.median:.1f}".removesuffix(".0"),
            str(of.p95),
            str(of.maximum),
        )
    ]
    titles = page.texts["title"]
    assert [text for text in titles if text.startswith(("cold:", "influenza:", "bronchitis:"))] == [
        f"{name}: {count} rows" for name, count in found.references.items()
    ]
    assert "1 row" in page.texts["b"]
    assert "2.6% of all" in page.texts["p"]


def test_the_bars_of_the_histograms_are_all_the_rows() -> None:
    found = inspect(examples(53))
    titles = " ".join(page_of(found).texts["title"])
    drawn = re.findall(r"(\d+)(?: to (\d+))? words: (\d+) row", titles)
    bins = [of for counts in found.histograms.values() for of in bin_rows(counts) if of.num_rows]
    assert [(int(first), int(last or first) + 1, int(rows)) for first, last, rows in drawn] == bins
    assert sum(of.num_rows for of in bins) == 3 * 53


def test_a_long_tail_is_drawn_on_a_logarithmic_axis() -> None:
    tail = [example(12, reasoning="so " * 9000)]
    assert "words, log scale" not in page_of(inspect(examples(11))).said
    assert page_of(inspect(examples(11) + tail)).said.count("words, log scale") == 1


def test_nothing_that_comes_from_the_data_is_markup() -> None:
    wrong = [fault((f"row 1: {HOSTILE}", HOSTILE), what=HOSTILE, way_out=HOSTILE)]
    found = replace(with_faults(wrong), references={HOSTILE: 11})
    text = to_html(found, HOSTILE, template=HOSTILE)
    page = Page(text)
    plain = page_of(with_faults([fault(("row 1: x", "y"))]))
    assert page.wrong == []
    assert page.tags["script"] == page.tags["img"] == 0
    assert page.tags["ul"] == plain.tags["ul"]
    assert "\x00" not in text
    assert text.encode()
    assert page.said.count("<script>alert(1)</script>") >= 6
    assert escaped("\x00\ud800") == "\ufffd\ufffd"


def test_the_page_loads_nothing_and_runs_nothing() -> None:
    page = page_of(inspect(examples(5)))
    names = {name for _, name, _ in page.attributes}
    assert not names & {"src", "href", "srcset", "action", "style"}
    assert not [name for name in names if name.startswith("on")]
    assert not page.tags.keys() & {"script", "link", "iframe", "img", "object"}
    style = " ".join(page.texts["style"])
    assert "url(" not in style
    assert "@import" not in style
    assert ("meta", "content", "default-src 'none'; style-src 'unsafe-inline'") in page.attributes


def test_every_chart_has_a_name_and_a_description() -> None:
    page = page_of(inspect([*examples(9), example(3)]))
    named = [value.split() for _, name, value in page.attributes if name == "aria-labelledby"]
    ids = [value for _, name, value in page.attributes if name == "id"]
    assert page.tags["svg"] == len(named) == page.tags["desc"] == 6
    assert [one for pair in named for one in pair] == ids


def test_repeated_and_leaked_questions_are_a_chart() -> None:
    question = (
        "My nose has been running for four days, my throat is a little sore, I sneeze all the time "
        "and my daughter had the same last week. There is no fever and I sleep and eat well."
    )
    rows = [
        *examples(7),
        example(8, question=question),
        example(9, question=question.replace("four", "five")),
        example(3),
    ]
    titles = page_of(inspect(rows, heldout=[example(5)])).texts["title"]
    assert "the question is also among the held-out questions: 1 row" in titles
    assert "the same question again, with the same answer: 2 rows" in titles
    near = [text for text in titles if text.startswith("nearly the same question again")]
    assert near == ["nearly the same question again (similarity at least 0.8): 2 rows"]
    assert "No question was found twice." in page_of(inspect(examples(7))).said


def test_the_headline_says_how_many_of_what() -> None:
    of = {severity: replace(fault(["row 1"]), severity=severity) for severity in Severity}
    error, warning, note = (of[severity] for severity in Severity)
    for faults, verdict in (
        ([error, warning, warning, note], "1 error to mend before training, 2 warnings, 1 note"),
        ([warning, note, note], "No errors, 1 warning, 2 notes"),
        ([note], "No errors or warnings, 1 note"),
        ([], "Nothing wrong found"),
    ):
        page = page_of(with_faults(faults))
        assert verdict in page.texts["p"]
        assert f"{verdict}: train.jsonl" in page.texts["title"]


@pytest.mark.parametrize("num_faults", [50, 1000])
def test_however_much_is_found_the_page_stays_below_400_kb(num_faults: int) -> None:
    rows = [f"訓練.jsonl row {n}: 推理有「{'病' * 90}<&>」" for n in range(1000)]
    found = with_faults(
        [fault(rows, num_rows=2000, what=f"{n} 缺" * 40) for n in range(num_faults)]
    )
    text = to_html(found, "train.jsonl")
    assert len(text.encode()) < 400_000
    page = Page(text)
    assert page.tags["article"] == min(num_faults, MAX_FINDINGS)
    shown = len(page.texts["li"]) / page.tags["article"]
    assert page.texts["summary"] == [f"the first {shown:.0f} of 2,000 rows"] * page.tags["article"]
    assert f"and {2000 - shown:,.0f} more" in page.texts["p"]
    assert ("And 900 findings more, none of them graver." in page.texts["p"]) == (num_faults > 100)


def test_the_length_limit_names_the_rows_it_touches() -> None:
    template = Template.from_tokenizer(
        r1_llama(), TemplateConfig(overlong=Overlong.SHORTEN_REASONING)
    )
    rows = examples(13)
    whole = [len(template.render(row).tokens) for row in rows]
    found = inspect(rows, template=template, max_length=sorted(whole)[6])
    assert found.tokens is not None
    assert found.tokens.shortened
    page = page_of(found, template="some/model")
    assert page.texts["li"][-len(found.tokens.shortened) :] == [
        f"{name}: {removed} tokens removed" for name, removed in found.tokens.shortened
    ]
    assert f"{sorted(whole)[6]} tokens a row" in page.texts["b"]
    assert "Tokens as some/model has them." in page.texts["p"]
    assert str(found.tokens.segments["row"].maximum) in page.texts["td"]
    assert "--template-of MODEL" in page_of(inspect(rows)).texts["code"]


def test_one_row_and_no_usable_row_and_no_reference_make_a_page() -> None:
    assert page_of(inspect(examples(1))).texts["dd"] == ["1", "1", "1", "0"]
    bare = [replace(row, reference=None) for row in examples(3)]
    assert "No row has a reference." in page_of(inspect(bare)).said
    unusable = inspect([Unusable(Row("train.jsonl", 1, {}), ("no answer",))])
    page = page_of(unusable)
    assert page.texts["dd"] == ["1", "0", "1", "0"]
    assert page.tags["svg"] == page.tags["table"] == 0
    assert "nothing to measure" in page.said
    many = replace(inspect(examples(3)), references={})
    assert "too many for a chart" in page_of(many).said


def test_many_references_are_cut_and_counted() -> None:
    rows = [example(n, reference=f"ICD {n % 40}") for n in range(80)]
    assert "and 28 more in 56 rows" in page_of(inspect(rows)).texts["p"]


def test_chinese_text_says_which_chinese_it_is() -> None:
    chinese = {
        "question": "發燒三天，鼻塞。",
        "reasoning": "體溫高，這應是流感。",
        "answer": "請多休息。",
    }
    page = page_of(inspect([example(1, reference="流感", **chinese)]))
    assert ("div", "lang", "zh-Hant") in page.attributes
    assert "Traditional Chinese 100%" in page.texts["text"]
    assert "流感" in page.texts["text"]


def test_the_marks_are_the_inspections_median_and_95th_percentile() -> None:
    found = inspect(examples(37))
    said = page_of(found).texts["text"]
    of: Quantiles
    for of in found.words.values():
        assert f"95% at most {of.p95}" in said
        assert f"median {of.median:.1f}".removesuffix(".0") in said


def test_the_same_inspection_gives_the_same_page_and_the_file_names_the_day(tmp_path: Path) -> None:
    found = inspect(examples(7))
    assert to_html(found, "a.jsonl") == to_html(found, "a.jsonl")
    path = tmp_path / "new" / "report.html"
    write_report(path, found, "a.jsonl", template="some/model")
    written = path.read_text(encoding="utf-8")
    assert f"{datetime.now(UTC):%Y-%m-}" in written
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
