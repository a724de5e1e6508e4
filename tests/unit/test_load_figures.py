"""How a load test counts: histograms, schedules, objectives, the search for the capacity, and the comparison."""

import itertools
import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from millrace_client.load import capacity, results
from millrace_client.load.command import main
from millrace_client.load.comparing import compare
from millrace_client.load.histogram import Histogram
from millrace_client.load.objectives import Objective
from millrace_client.load.reports import plain
from millrace_client.load.reports.junit import junit
from millrace_client.load.reports.page import page
from millrace_client.load.reports.plots import write_plots
from millrace_client.load.schedules import Profile, arrivals, trace
from millrace_client.load.tally import Tally
from PIL import Image

TIMES = st.lists(st.integers(0, 10**9), min_size=1, max_size=200)


def histogram(times: list[int]) -> Histogram:
    made = Histogram()
    for us in times:
        made.record(us)
    return made


def run_document(tally: Tally, seconds: float = 10.0, rate: float = 100.0, **setting: Any) -> dict[str, Any]:
    made = results.Setting(
        host="http://127.0.0.1:8000",
        protocol="oip-json",
        models=("digits",),
        load={"mode": "open", "rate": rate, "arrivals": "poisson", "users": 1},
        seconds=seconds,
        started_at="2026-11-26T00:00:00+00:00",
        command=("millrace", "load", "<digits>"),
        environment={"processor": "one", "cores": 2, "commit": "abc"},
        **setting,
    )
    return results.result(made, results.Counted(tally=tally, cpu=(0.1,)))


def answered(latencies_us: list[int], seconds: int = 10) -> Tally:
    tally = Tally()
    for number, us in enumerate(latencies_us):
        tally.lag.record(100)
        tally.succeed(number % seconds, us, {"wait": us, "server:queue": 5})
    return tally


@given(TIMES, st.sampled_from([50.0, 90.0, 99.0, 99.9, 100.0]))
def test_percentiles_are_exact_to_a_thousandth(times: list[int], percent: float) -> None:
    exact = sorted(times)[max(0, int(np.ceil(len(times) * percent / 100 - 1e-9)) - 1)]
    assert histogram(times).percentile_us(percent) == pytest.approx(exact, rel=1e-3, abs=0.5)


@given(TIMES, TIMES)
def test_merged_histograms_are_those_of_all_times(one: list[int], other: list[int]) -> None:
    merged = Histogram.of(json.loads(json.dumps(histogram(one).document())))
    merged.merge(histogram(other))
    assert merged.document() == histogram(one + other).document()
    assert merged.count == len(one + other)


def test_a_tally_travels_and_merges() -> None:
    tally = answered([1000, 2000])
    tally.fail(3, "refused", "429: full")
    copy = Tally.of(json.loads(json.dumps(tally.document())))
    copy.merge(tally)
    assert copy.kinds == {"ok": 4, "refused": 2}
    assert copy.messages == {"429: full": 2}
    assert copy.latency.count == 4
    assert copy.window_failures == {3: 2}


def test_messages_do_not_pile_up() -> None:
    tally = Tally()
    for number in range(1000):
        tally.fail(0, "error", f"request {number}")
    assert len(tally.messages) <= 21
    assert tally.messages.total() == 1000


def test_a_schedule_is_the_same_for_the_same_seed() -> None:
    one, again, other = (arrivals(Profile.of("200"), 10, "poisson", seed) for seed in (1, 1, 2))
    assert np.array_equal(one, again)
    assert not np.array_equal(one[:100], other[:100])
    assert np.all(np.diff(one) >= 0)
    assert one[-1] < 10


def test_poisson_arrivals_vary_as_they_should() -> None:
    gaps = np.diff(arrivals(Profile.of("1000"), 20, "poisson", 3))
    assert gaps.mean() == pytest.approx(0.001, rel=0.05)
    assert gaps.std() == pytest.approx(gaps.mean(), rel=0.05)


def test_steps_and_ramps_have_the_rates_that_they_name() -> None:
    steps = arrivals(Profile.of("100,200,400"), 30, "constant", 1)
    assert np.histogram(steps, [0, 10, 20, 30])[0].tolist() == pytest.approx([1000, 2000, 4000], abs=3)
    ramp = arrivals(Profile.of("0.1..100"), 20, "constant", 1)
    assert len(ramp) == pytest.approx(1001, abs=2)
    assert np.searchsorted(ramp, 10) == pytest.approx(250, abs=3)  # a quarter in the first half


@pytest.mark.parametrize("text", ["", "fast", "0", "-5", "1..2..3", "10,,20", "nan", "inf"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"rate|more than 0"):
        Profile.of(text)


def test_a_trace_is_replayed_from_its_first_request(tmp_path: Path) -> None:
    file = tmp_path / "trace"
    file.write_text('100.5\n{"at_s": 101.0, "user": 7}\n\n100.25\n')
    assert trace(file).tolist() == [0.0, 0.25, 0.75]
    file.write_text("1.0\nyesterday\n")
    with pytest.raises(ValueError, match="line 2"):
        trace(file)


@pytest.mark.parametrize(
    ("objective", "is_met"),
    [
        ("p50<2ms", True),
        ("p99<=1ms", False),
        ("max<1s", True),
        ("mean<900us", False),
        ("errors<1%", False),
        ("errors<0.5", True),
        ("refused<=10%", True),
        ("throughput>=90", True),
        ("goodput>0.95", False),
    ],
)
def test_objectives_are_judged(objective: str, is_met: bool) -> None:
    tally = answered([1500] * 900)
    for _ in range(100):
        tally.fail(0, "refused", "429")
    document = run_document(tally, objective_ms=10.0)
    assert Objective.of(objective).verdict(document).is_met is is_met


@pytest.mark.parametrize("text", ["p99", "p99<50", "p98<1ms", "errors<5ms", "throughput>5%", "p99=5ms", ""])
def test_what_is_no_objective_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"objective|time"):
        Objective.of(text)


def test_a_percentile_from_too_few_requests_is_not_claimed() -> None:
    few, enough = (run_document(answered([1000] * count)) for count in (999, 1000))
    objective = Objective.of("p99<50ms")
    assert not objective.verdict(few).is_claimed
    assert objective.verdict(enough).is_claimed
    assert few["notes"] == ["too few requests to claim p99, p999"]


def test_refusals_never_make_a_latency_better() -> None:
    tally = answered([50_000] * 1000)
    for _ in range(9000):
        tally.fail(0, "refused", "429")
    document = run_document(tally, objective_ms=100)
    assert document["latency_ms"]["p50"] == pytest.approx(50, rel=0.001)
    assert (document["ok"], document["refused"], document["failed"]) == (1000, 9000, 0)
    assert document["goodput"]["share"] == pytest.approx(0.1)


def test_a_generator_that_falls_behind_makes_the_run_invalid() -> None:
    tally = answered([1000] * 100)
    assert run_document(tally)["valid"]
    for _ in range(20):
        tally.lag.record(8_000)
    assert "fell behind" in run_document(tally)["invalid"][0]
    assert run_document(tally, max_send_lag_ms=10.0)["valid"]


def simulated(limit: float) -> Callable[[float, float], Mapping[str, Any]]:
    """A server whose p99 grows as a queue's does, up to its limit."""

    def measure(rate: float, seconds: float) -> Mapping[str, Any]:
        us = int(5000 / (1 - rate / limit)) if rate < limit else 10_000_000
        return run_document(answered([us] * int(rate * seconds)), seconds, float(f"{rate:g}"))

    return measure


def test_the_capacity_is_found_and_confirmed() -> None:
    found = capacity.find(simulated(1000), capacity.Rules(p99_ms=50, seconds=1), 50)
    assert found.rate == pytest.approx(900, rel=0.06)  # there 5 ms / (1 - rate / 1000) is 50 ms
    assert found.rate <= 900
    assert len(found.p99_ms) == 3
    assert len(found.runs) < 20
    assert "p99" in found.limit


def test_the_search_goes_down_where_it_began_too_high() -> None:
    found = capacity.find(simulated(40), capacity.Rules(p99_ms=50, seconds=1), 500)
    assert found.rate == pytest.approx(36, rel=0.06)
    assert capacity.find(simulated(0.1), capacity.Rules(p99_ms=50, seconds=1), 50).rate == 0


def test_a_rate_that_fails_its_confirmation_is_not_the_answer() -> None:
    measure, runs = simulated(1000), itertools.count()

    def unsteady(rate: float, seconds: float) -> Mapping[str, Any]:
        measured = measure(rate * 1.2 if next(runs) >= 8 else rate, seconds)
        return {**measured, "load": {"rate": float(f"{rate:g}")}}

    found = capacity.find(unsteady, capacity.Rules(p99_ms=50, seconds=1), 50)
    assert found.rate <= 750
    assert found.p99_ms


def test_a_run_that_is_invalid_is_repeated_before_its_rate_counts_as_missed() -> None:
    measure, runs = simulated(1000), itertools.count()

    def disturbed(rate: float, seconds: float) -> Mapping[str, Any]:
        number = next(runs)
        is_valid = number % 3 != 1
        changes = {"started_at": str(number), "valid": is_valid, "invalid": [] if is_valid else ["disturbed"]}
        return {**measure(rate, seconds), **changes}

    found = capacity.find(disturbed, capacity.Rules(p99_ms=50, seconds=1), 50)
    assert found.rate == pytest.approx(900, rel=0.06)
    assert len(page(found.runs, (), {**found.document(), "objective_ms": 50.0})) > 1000  # runs at one rate differ


def test_a_run_at_a_low_rate_lasts_until_there_are_enough_requests() -> None:
    assert capacity.Rules(p99_ms=50, seconds=10).seconds_at(10) == pytest.approx(110)
    assert capacity.Rules(p99_ms=50, seconds=10).seconds_at(1000) == 10


def test_a_difference_is_told_from_noise() -> None:
    rng = np.random.default_rng(1)
    a, same, slower = (
        run_document(answered((rng.gamma(4, scale, 3000) * 1000).astype(int).tolist())) for scale in (1.0, 1.0, 1.3)
    )
    assert {each.word for each in compare(a, same)} == {"same"}
    found = {each.figure: each for each in compare(a, slower)}
    assert (found["p50"].word, found["ok_per_s"].word) == ("worse", "same")
    assert found["p50"].low < 1.3 < found["p50"].high
    assert {each.word for each in compare(slower, a) if each.figure == "p50"} == {"better"}
    assert "worse" in plain.differences(compare(a, slower))


def test_runs_that_are_too_short_are_not_compared() -> None:
    short = run_document(answered([1000] * 10, 2), 2.0)
    with pytest.raises(ValueError, match="at least 5 seconds"):
        compare(short, short)
    with pytest.raises(ValueError, match="one run"):
        compare({"runs": [short]}, short)


def test_the_reports_say_the_same_and_escape_what_the_server_said() -> None:
    tally = answered([1500] * 1000)
    tally.fail(1, "error", "500: <script>alert(1)</script>")
    document = run_document(tally)
    verdicts = [Objective.of("p99<1ms").verdict(document), Objective.of("errors<1%").verdict(document)]
    html, text = page([document], verdicts), plain.text(document, verdicts)
    assert "<script" not in html
    assert "http" not in html.replace("http://127.0.0.1:8000", "")  # nothing is taken from the network
    assert "1.50\u00a0ms" in html
    assert "p99 1.50 ms" in text
    assert "| 100/s poisson | 1001 | 100.0 | 0 | 1 |" in plain.markdown([document], verdicts)
    assert 'failures="1" errors="0"' in junit(document, verdicts)
    assert plain.table([document]).count("\n") == 2


def test_a_page_of_a_search_shows_the_curve() -> None:
    found = capacity.find(simulated(1000), capacity.Rules(p99_ms=50, seconds=1), 50)
    html = page(found.runs, (), {**found.document(), "objective_ms": 50.0})
    assert "Latency over load" in html
    assert "requests/s at p99 ≤ 50 ms" in html


def test_the_charts_are_pictures_too(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = run_document(answered([1000 + number for number in range(2000)]))
    written = write_plots(tmp_path / "new", [run, run], {"objective_ms": 2.0})
    assert [file.name for file in written] == ["latency-over-time.png", "latencies.png", "latency-over-load.png"]
    blue = np.array([0x0B, 0x6B, 0xCB])  # of the p50 and the bars
    for file in written:
        pixels = np.asarray(Image.open(file).convert("RGB"))
        assert pixels.shape[1] >= 1000
        assert (pixels == blue).all(axis=2).sum() > 100
    nothing = run_document(Tally())
    assert write_plots(tmp_path, [nothing]) == []


def test_pictures_without_matplotlib_are_refused_before_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit) as ended:
        main(["digits", "--png", str(tmp_path)])
    assert ended.value.code == 2
    assert "pip install './client[plots]'" in capsys.readouterr().err
