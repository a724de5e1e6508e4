"""The page of a load test in a real Chromium: phone and desk, light and dark, and nothing from the network."""

import html
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from millrace_client.load import results
from millrace_client.load.objectives import Objective
from millrace_client.load.reports.page import page
from millrace_client.load.tally import Tally

pytestmark = pytest.mark.slow
# A page cannot be asked from outside without a driver: another one holds it in a frame, and writes down what it finds.
_AROUND = """<!doctype html><title>around</title><pre id="found"></pre>
<iframe width="%d" height="800" srcdoc="%s"></iframe>
<script>
window.onload = () => {
  const page = document.querySelector("iframe").contentWindow, body = page.document.body;
  document.getElementById("found").textContent = JSON.stringify({
    overflow: page.document.documentElement.scrollWidth - page.innerWidth,
    background: page.getComputedStyle(body).backgroundColor,
    charts: [...body.querySelectorAll("svg")].map(svg => svg.getBoundingClientRect().width),
    outside: [...body.querySelectorAll("svg text")].filter(text => {
      const chart = text.ownerSVGElement.getBoundingClientRect(), box = text.getBoundingClientRect();
      return box.left < chart.left - 1 || box.right > chart.right + 1;
    }).map(text => text.textContent),
    loaded: page.performance.getEntriesByType("resource").length,
  });
};
</script>"""


@pytest.fixture(scope="module")
def chromium() -> str:
    names = (os.environ.get("TEST_CHROMIUM", ""), "chromium", "chromium-browser", "google-chrome")
    found = next((path for name in names if name and (path := shutil.which(name))), None)
    if found is None:
        pytest.skip("there is no Chromium (apt-get install chromium, or TEST_CHROMIUM)")
    return found


@pytest.fixture(scope="module")
def report() -> str:
    """Of a run whose p99 is bad in one second, with long words that must not widen the page."""
    tally = Tally()
    for number in range(2000):
        tally.succeed(number % 10, 900_000 if number % 10 == 4 else 1000 + number, {"wait": 900, "server:queue": 40})
        tally.lag.record(50)
    tally.fail(3, "error", "500: " + "unbreakable" * 30)
    setting = results.Setting(
        host="http://127.0.0.1:8000",
        protocol="oip-json",
        models=("digits",),
        load={"mode": "open", "rate": 200.0, "arrivals": "poisson", "users": 64},
        seconds=10.0,
        started_at="2026-11-26T00:00:00+00:00",
        command=("millrace", "load", "digits", "--host", "http://" + "long" * 40),
        environment={"processor": "one", "cores": 2, "commit": "abc"},
        objective_ms=50.0,
    )
    run = results.result(setting, results.Counted(tally=tally, cpu=(0.1,)))
    return page([run, run], [Objective.of("p99<50ms").verdict(run)])


def look(chromium: str, folder: Path, report: str, width: int, *, is_dark: bool) -> dict[str, Any]:
    file = folder / f"{width}-{is_dark}.html"
    file.write_text(_AROUND % (width, html.escape(report)), encoding="utf-8")
    command = [chromium, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'profile'}"]
    command += [f"--blink-settings=preferredColorScheme={0 if is_dark else 1}", "--dump-dom", file.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    found = re.search(r'<pre id="found">(.*?)</pre>', dom, re.DOTALL)
    assert found, dom[:2000]
    return json.loads(html.unescape(found[1]))


@pytest.mark.parametrize(("width", "is_dark"), [(360, False), (1200, True)])
def test_the_page_fits_the_screen_and_its_colours(
    chromium: str, report: str, tmp_path: Path, width: int, is_dark: bool
) -> None:
    found = look(chromium, tmp_path, report, width, is_dark=is_dark)
    assert found["overflow"] <= 0
    assert found["outside"] == []
    assert found["background"] == ("rgb(20, 23, 26)" if is_dark else "rgb(255, 255, 255)")
    assert len(found["charts"]) == 3
    assert all(0.7 * min(width, 860) < chart <= width for chart in found["charts"])
    assert found["loaded"] == 0
