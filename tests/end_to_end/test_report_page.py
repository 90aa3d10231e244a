"""The report in a real browser: it is all there, and asks nobody for anything."""

import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from thinktune.data.faults import Fault, Severity
from thinktune.data.inspection import inspect
from thinktune.data.report import write_report
from thinktune.data.sources import read_examples

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
pytestmark = pytest.mark.skipif(not BROWSER, reason="no Chromium or Chrome on PATH")


def dump(page: Path) -> str:
    """The page as the browser has it once all is loaded and run."""
    command = [BROWSER, "--headless=new", "--no-sandbox", "--disable-gpu"]
    command += [f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=2000"]
    done = subprocess.run(
        [*command, "--dump-dom", page.as_uri()],
        capture_output=True,
        timeout=120,
        check=True,
        text=True,
        encoding="utf-8",
    )
    return done.stdout


@dataclass
class Listener:
    """A web server that only remembers what it was asked for."""

    address: str
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def listener() -> Iterator[Listener]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            heard.asked.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        heard = Listener(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield heard
        server.shutdown()
        thread.join()


def attack(address: str) -> str:
    return (
        f'</title></style></ul><img src="{address}/image">'
        f'<link rel="stylesheet" href="{address}/css">'
        f'<iframe src="{address}/frame"></iframe><script>document.title = "taken"</script>'
    )


def test_the_page_of_a_shipped_data_set_is_whole(tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    write_report(page, inspect(read_examples("clinic-en", split="train")), "clinic-en")
    shown = dump(page)
    rows = len(read_examples("clinic-en", split="train"))
    assert f"<dt>rows</dt><dd>{rows:,} " in shown
    assert "Words of the reasoning" in shown
    assert shown.count("<svg ") == 5
    assert "influenza" in shown


def test_the_browser_loads_nothing_and_runs_nothing_the_data_holds(
    tmp_path: Path, listener: Listener
) -> None:
    wrong = attack(listener.address)
    fault = Fault(Severity.ERROR, wrong, (f"row 1: {wrong}", wrong), wrong, 2)
    examples = read_examples("clinic-en", split="test")
    found = replace(inspect(examples), references={wrong: len(examples)}, faults=(fault,))
    page = tmp_path / "report.html"
    write_report(page, found, wrong, template=wrong)
    shown = dump(page)
    assert "1 error to mend before training" in shown
    assert "<title>1 error to mend before training" in shown
    assert "<img" not in shown
    assert listener.asked == []


def test_the_listener_hears_a_page_that_is_not_escaped(tmp_path: Path, listener: Listener) -> None:
    page = tmp_path / "wrong.html"
    page.write_text(f"<!DOCTYPE html><title>mine</title>{attack(listener.address)}")
    assert "<title>taken</title>" in dump(page)
    assert {"/image", "/css", "/frame"} <= set(listener.asked)
