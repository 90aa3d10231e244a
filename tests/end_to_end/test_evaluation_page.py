"""The evaluation page in a real browser, spoken to over the DevTools protocol's pipe."""

import fcntl
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.evaluation.test_page import HOSTILE, content, question, sample, task
from thinktune.evaluation.page import to_page

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome on PATH")
TEXTS = "[...document.querySelectorAll({!r})].map(of => of.textContent)"


class Browser:
    """One tab; ``heard`` holds what it reported since the last page was opened."""

    def __init__(self, profile: Path) -> None:
        asked, self._ask = os.pipe()
        self._told, told = os.pipe()

        def connect() -> None:  # Chromium reads commands from 3 and answers on 4
            ends = [fcntl.fcntl(of, fcntl.F_DUPFD, 10) for of in (asked, told)]
            os.dup2(ends[0], 3)
            os.dup2(ends[1], 4)

        command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu", "about:blank"]
        command += ["--remote-debugging-pipe", f"--user-data-dir={profile}"]
        self._process = subprocess.Popen(
            command, close_fds=False, preexec_fn=connect, stderr=subprocess.DEVNULL
        )
        os.close(asked)
        os.close(told)
        self._number, self._rest, self._tab = 0, b"", {}
        self.heard: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        found = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._tab = {"sessionId": found["sessionId"]}
        for part in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{part}.enable")

    def call(self, method: str, **params: object) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": params, **self._tab}
        os.write(self._ask, json.dumps(message).encode() + b"\0")
        while (reply := self._read()).get("id") != self._number:
            self.heard.append(reply)
        assert "error" not in reply, reply
        return reply["result"]

    def open(self, page: Path) -> None:
        self.heard = []
        self.call("Page.navigate", url=page.as_uri())
        while not any(of.get("method") == "Page.loadEventFired" for of in self.heard):
            self.heard.append(self._read())

    def run(self, script: str) -> Any:
        done = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in done, done
        return done["result"].get("value")

    def texts(self, selector: str) -> list[str]:
        return self.run(TEXTS.format(selector))

    def press(self, label: str, within: str = "#filters") -> None:
        """Press the button whose text begins so."""
        self.run(
            f"[...document.querySelectorAll('{within} button')]"
            f".find(of => of.textContent.startsWith({label!r})).click()"
        )

    def search(self, words: str) -> float:
        """Type into the search box; gives the milliseconds until the cards are there."""
        return self.run(
            "(() => { const box = document.getElementById('search'), start = performance.now();"
            f"box.value = {words!r}; box.dispatchEvent(new Event('input'));"
            "return performance.now() - start; })()"
        )

    def type(self, key: str) -> None:
        self.call("Input.dispatchKeyEvent", type="keyDown", key=key, text=key)
        self.call("Input.dispatchKeyEvent", type="keyUp", key=key)

    def show(self, width: int, *, scheme: str = "light") -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=800,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def complaints(self) -> list[dict[str, Any]]:
        kinds = {"Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded"}
        return [of for of in self.heard if of.get("method") in kinds]

    def requests(self) -> list[str]:
        asked = (of for of in self.heard if of.get("method") == "Network.requestWillBeSent")
        return [of["params"]["request"]["url"] for of in asked]

    def close(self) -> None:
        self.call("Browser.close")
        self._process.wait(30)
        os.close(self._ask)
        os.close(self._told)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            some = os.read(self._told, 1 << 20)
            assert some, "the browser ended"
            self._rest += some
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    one = Browser(tmp_path_factory.mktemp("profile"))
    yield one
    one.close()


def open_page(browser: Browser, folder: Path, **changes: object) -> Path:
    page = folder / "evaluation.html"
    page.write_text(to_page(content(**changes)), encoding="utf-8")
    browser.show(1280)
    browser.open(page)
    return page


def several() -> list[dict[str, object]]:
    """120 fixed, 3 broken, 2 still wrong, 5 still right; two of the fixed unfinished before."""
    kinds = ["fixed"] * 120 + ["broken"] * 3 + ["wrong"] * 2 + ["right"] * 5
    questions = [question(row, kind) for row, kind in enumerate(kinds)]
    for of in questions[:2]:
        open_ended = sample("", closed=False, truncated=True, right=False, found=[])
        of |= {"unfinished": ["before"], "sides": {"before": [open_ended], "after": [sample()]}}
    questions[7]["sides"]["after"] = [sample(reasoning="Perhaps a Zebra bite.")]  # pyright: ignore
    questions[8]["task"] = "retention"
    return questions


def test_the_page_opens_without_complaint_and_asks_for_nothing(
    browser: Browser, tmp_path: Path
) -> None:
    page = open_page(browser, tmp_path, questions=several())
    assert browser.run("document.querySelector('h1').innerText").startswith("▲ Better")
    assert browser.run("document.querySelectorAll('#cards > article').length") == 50
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]


def test_filters_count_and_show_what_they_say(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, tmp_path, questions=several())
    told = ["all130", "fixed120", "broken3", "still wrong2", "still right5", "unfinished2"]
    assert browser.texts("#filters button") == told
    browser.press("broken")
    assert browser.texts(".tag") == ["broken"] * 3
    assert browser.texts("#filters [aria-pressed=true]") == ["broken3"]
    browser.press("retention", "#by-task")
    assert browser.texts("#count") == ["0 of 130 questions"]
    browser.press("fixed")
    assert browser.texts("#cards h3") == ["clinic-en/test.jsonl row 8"]
    browser.run("document.querySelector('.legend .broken a').click()")
    assert browser.texts("#count") == ["3 of 130 questions"]


def test_scrolling_to_the_end_brings_more_cards(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, tmp_path, questions=several())
    for _ in range(40):
        if browser.run("document.querySelectorAll('#cards > article').length") == 130:
            break
        browser.run("document.getElementById('cards').lastElementChild.scrollIntoView()")
        time.sleep(0.1)
    assert len(set(browser.texts("#cards h3"))) == 130
    assert browser.run("document.getElementById('more').hidden")


def test_the_last_part_can_be_reached_past_all_cards(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, tmp_path, questions=several())
    browser.run("document.querySelector('nav a[href=\"#repeat\"]').click()")
    browser.run("new Promise(done => setTimeout(done, 500))")
    top = browser.run("document.querySelector('#repeat h2').getBoundingClientRect().top")
    assert 0 <= top < 800
    assert browser.run("document.querySelectorAll('#cards > article').length") == 50


def test_search_finds_reasoning_answers_and_references_in_any_case(
    browser: Browser, tmp_path: Path
) -> None:
    open_page(browser, tmp_path, questions=several())
    browser.search("zebra BITE")
    assert browser.texts("#cards h3") == ["clinic-en/test.jsonl row 7"]
    assert browser.texts("#cards summary mark") == ["found here"]
    browser.search("case 129.")
    assert browser.texts("#cards .asked mark") == ["case", "129."]
    browser.search("(no such words*")
    assert browser.texts("#count") == ["0 of 130 questions"]
    browser.search("")
    assert browser.texts("#count") == ["130 questions"]


def test_unfolding_shows_the_reasoning(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, tmp_path)
    browser.run("document.getElementById('cards').scrollIntoView()")
    browser.run("new Promise(done => setTimeout(done, 100))")
    shown = "document.querySelector('#cards > article').innerText"
    assert "case 1." in browser.run(shown)
    assert "Sudden fever" not in browser.run(shown)
    browser.run("document.querySelector('#cards summary').click()")
    browser.run("new Promise(done => setTimeout(done, 100))")
    assert "Sudden fever and aches." in browser.run(shown)
    browser.run("document.getElementById('unfold').click()")
    assert browser.run("[...document.querySelectorAll('#cards details')].every(of => of.open)")


def test_marks_are_words_and_differing_words_are_marked(browser: Browser, tmp_path: Path) -> None:
    old, new = sample("Drink tea and sleep.", right=False), sample("Drink water and sleep.")
    sides = {"before": [old], "after": [new | {"right": True}]}
    open_page(browser, tmp_path, questions=[several()[0], question(2, sides=sides)])
    told = ["… unfinished, cut at the token limit", "✓ right", "✗ wrong", "✓ right"]
    assert browser.texts(".state") == told
    assert browser.texts("mark.changed") == ["tea", "water"]
    assert "the reasoning was never closed" in browser.texts(".answer")[0]


def test_each_of_several_samples_can_be_read(browser: Browser, tmp_path: Path) -> None:
    samples = [sample(f"answer {n}", right=n == 2) for n in range(3)]
    sides = {"before": samples, "after": []}
    open_page(browser, tmp_path, questions=[question(1, sides=sides)])
    assert browser.texts(".samples button") == ["1 ✗", "2 ✗", "3 ✓"]
    assert browser.texts(".rights") == ["1 of 3 right"]
    assert browser.texts(".answer") == ["answer 0"]
    browser.press("3", ".samples")
    assert browser.texts(".answer") == ["answer 2"]
    assert browser.texts(".samples [aria-pressed=true]") == ["3 ✓"]
    assert browser.texts(".state") == ["✓ right"]


def test_keys_move_between_questions_and_to_the_search(browser: Browser, tmp_path: Path) -> None:
    open_page(browser, tmp_path, questions=several())
    focused = "document.activeElement.getAttribute('aria-label')"
    for key, row in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        browser.type(key)
        assert browser.run(focused) == f"Question clinic-en/test.jsonl row {row}"
    browser.run("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    top, stuck = browser.run(
        "[document.activeElement.getBoundingClientRect().top,"
        "document.querySelector('.tools').getBoundingClientRect().bottom]"
    )
    assert stuck <= top < 300
    browser.type("/")
    assert browser.run("document.activeElement.id") == "search"
    browser.type("j")
    assert browser.run("document.getElementById('search').value") == "j"


def test_a_phone_has_nothing_to_scroll_sideways(browser: Browser, tmp_path: Path) -> None:
    long = question(2, question="x" * 400, id="y" * 300, reference="z" * 200)
    longest = task(name="t" * 80, verdict="v" * 300, warnings=["w" * 300])
    open_page(browser, tmp_path, questions=[question(1), long], tasks=[task(), longest])
    for width in (360, 761, 1280):
        browser.show(width)
        assert browser.run("document.documentElement.scrollWidth") <= width
        assert browser.run("innerWidth") == width


def test_both_themes_can_be_chosen_and_have_enough_contrast(
    browser: Browser, tmp_path: Path
) -> None:
    open_page(browser, tmp_path)
    ground = "getComputedStyle(document.body).backgroundColor"
    light = browser.run(ground)
    browser.run("document.getElementById('theme').click()")
    dark = browser.run(ground)
    assert light != dark
    browser.show(1280, scheme="dark")
    browser.run("document.getElementById('theme').click()")
    assert browser.run(ground) == light
    browser.run("document.getElementById('theme').click()")
    assert browser.run(ground) == dark
    names = ("text", "dim", "side0", "side1", "better", "worse", "unsure", "warning", "link")
    pairs = [(name, behind) for name in names for behind in ("page", "card", "sunk")]
    pairs += [("text", "hit"), ("text", "changed"), ("reasoning", "card"), ("answer", "card")]
    for scheme in ("light", "dark"):
        browser.run(f"document.documentElement.dataset.theme = {scheme!r}")
        ratios = {of: contrast(colour(browser, of[0]), colour(browser, of[1])) for of in pairs}
        assert {of: ratio for of, ratio in ratios.items() if ratio < 4.5} == {}, scheme
    browser.run("localStorage.clear()")


def colour(browser: Browser, name: str) -> list[float]:
    found = browser.run(
        "(() => { const of = document.body.appendChild(document.createElement('i'));"
        f"of.style.color = 'var(--{name})'; const found = getComputedStyle(of).color;"
        "of.remove(); return found.match(/[\\d.]+/g).map(Number); })()"
    )
    assert len(found) == 3
    return found


def contrast(first: list[float], second: list[float]) -> float:
    """WCAG 2.2, contrast ratio."""

    def luminance(colour: list[float]) -> float:
        parts = [of / 255 for of in colour]
        linear = [of / 12.92 if of <= 0.04045 else ((of + 0.055) / 1.055) ** 2.4 for of in parts]
        return sum(w * of for w, of in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_nothing_that_the_content_holds_is_run(browser: Browser, tmp_path: Path) -> None:
    written = [sample(HOSTILE, reasoning=HOSTILE, notes=[HOSTILE], found=[HOSTILE])]
    hostile = question(1, id=HOSTILE, question=HOSTILE, reference=HOSTILE, system=HOSTILE)
    hostile |= {"sides": {"before": written, "after": written * 2}, "task": HOSTILE}
    given: dict[str, object] = {"title": HOSTILE, "verdict": HOSTILE, "warnings": [HOSTILE]}
    given["tasks"] = [task(name=HOSTILE, verdict=HOSTILE)]
    page = open_page(browser, tmp_path, questions=[hostile, question(2)], **given)
    browser.run("document.getElementById('unfold').click()")
    for sought in ("", "script"):
        browser.search(sought)
        browser.run("new Promise(done => setTimeout(done, 200))")
        assert browser.run("typeof window.taken") == "undefined"
        assert browser.run("document.querySelectorAll('img, main script').length") == 0
    assert "window.taken = 2" in browser.texts(".answer")[0]
    assert browser.complaints() == []
    assert browser.requests() == [page.as_uri()]


def test_an_attack_that_is_not_escaped_is_noticed(browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "wrong.html"
    page.write_text("<!DOCTYPE html><title>x</title><script>window.taken = 1; missing()</script>")
    browser.open(page)
    assert browser.run("window.taken") == 1
    assert browser.complaints()


def test_without_scripts_all_but_the_browser_of_questions_shows(
    browser: Browser, tmp_path: Path
) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    open_page(browser, tmp_path)
    browser.call("Emulation.setScriptExecutionDisabled", value=False)
    shown = browser.run("document.body.innerText")
    for told in ("pass@1 rose from 0.00 to 0.96", "69 right only after", "needs JavaScript"):
        assert told in shown
    assert "Dark" not in shown
    assert browser.run("document.querySelector('.panel svg').getBoundingClientRect().width") > 100


def test_5000_questions_open_filter_and_search_within_seconds(
    browser: Browser, tmp_path: Path
) -> None:
    words = "The patient has had fever for days, and it may well be a cold. " * 46
    kinds = ("fixed", "wrong", "right", "broken", "fixed")
    many = [question(row, kinds[row % 5]) for row in range(5000)]
    for row, of in enumerate(many):
        written = f"{words} number {row}."
        of["sides"] = {"before": [sample(reasoning=written)], "after": [sample(reasoning=written)]}
    start = time.monotonic()
    page = open_page(browser, tmp_path, questions=many)
    took = time.monotonic() - start
    assert page.stat().st_size > 29e6
    assert browser.run("document.querySelectorAll('#cards > article').length") == 50
    browser.run("document.getElementById('search').focus()")
    browser.run("new Promise(done => setTimeout(done, 1500))")  # it reads ahead meanwhile
    milliseconds = [browser.search(of) for of in ("number 4321.", "fever", "cold no-such-word")]
    browser.search("number 4321.")
    assert browser.texts("#cards h3") == ["clinic-en/test.jsonl row 4321"]
    browser.search("")
    start = time.monotonic()
    browser.press("broken")
    pressed = time.monotonic() - start
    assert browser.texts("#count") == ["1,000 of 5,000 questions"]
    print(
        f"written and opened in {took:.1f} s, searched in {milliseconds} ms, filter {pressed:.2f}"
    )
    assert took < 15
    assert max(milliseconds) < 1000
    assert pressed < 2
