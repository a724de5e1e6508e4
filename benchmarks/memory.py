"""Do the processes stay small and of one size? A million requests to the three bundled models, by turns and together.

    make memory                                   # about four minutes; results in .runs/memory/
    make memory ARGS="--requests 100000"

Loads all three models at once in slices, and reads RSS and PSS of each process between them. A process is flat when the
straight line through its RSS, without the first third, rises by no more than the noise: 1 % of its size, or twice the
scatter about that line. Exits with 1 where a process is too large or not flat, or an answer is wrong or failed.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import cnn, load, scenarios
from benchmarks.forms import FORMS, ask
from benchmarks.load import Target
from benchmarks.servers import Server
from millrace import provenance

ROOT = Path(__file__).parent.parent
# The limits are those of one process, however large the machine.
_ONE_OF_EACH = replace(scenarios.STACK, start=[f"{scenarios.STACK.start[0]} --apis 1 --workers 1"])
LIMITS_MB = {"serving": 120, "worker": 250}
_CONNECTIONS = 16  # for each model
_SEED = 7


def main(argv: list[str] | None = None) -> int:
    """Load, read, print, write."""
    options = _arguments(argv)
    stamp = provenance.stamp()
    with Server(_ONE_OF_EACH, scenarios.DIGITS) as server:
        server.wait_ready("a text")
        targets = _targets(server.url({"url": "http://127.0.0.1:{port}"}))
        samples, totals = _load(server, targets, options)
    verdicts = [_verdict(role, samples) for role in LIMITS_MB]
    data = {"machine": stamp, "totals": totals, "verdicts": verdicts, "samples": samples}
    options.out.mkdir(parents=True, exist_ok=True)
    text = _markdown(data)
    (options.out / "memory.md").write_text(text)
    (options.out / "memory.json").write_text(json.dumps(data, indent=1) + "\n")
    print(text)
    is_right = totals["wrong"] == totals["errors"] == 0
    return 0 if is_right and all(v["is_small"] and v["is_flat"] for v in verdicts) else 1


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description=__doc__.partition("\n")[0])
    parser.add_argument("--requests", type=int, default=1_000_000, help="how many in all (%(default)s)")
    parser.add_argument("--limit-s", type=float, default=900, help="stop after so many seconds (%(default)s)")
    parser.add_argument("--slice-s", type=float, default=5, help="seconds between two readings (%(default)s)")
    parser.add_argument(
        "--out", type=Path, default=Path(".runs/memory"), help="the folder for the results (%(default)s)"
    )
    return parser.parse_args(argv)


def _targets(base: str) -> list[Target]:
    """One for each model; what is right for texts and words is what the server answers to each alone."""
    rng = np.random.default_rng(_SEED)
    vocabulary = (ROOT / "models/word2vec/1/vocabulary.txt").read_text().split()[:2000]
    texts = [" ".join(rng.choice(vocabulary, length)) for length in rng.integers(5, 40, 64)]
    words = [list(map(str, rng.choice(vocabulary, 2, replace=False))) for _ in range(64)]
    images = rng.choice([0, 0, 0, 0, 128, 255], (64, 28, 28, 1)).astype("f4")
    asked: dict[str, tuple[str, Sequence[Any]]] = {
        "text": ("/v1/models/sentiment:predict", texts),
        "words": ("/v2/models/word2vec/infer", words),
    }
    targets = [
        Target(
            url=f"{base}/v1/models/digits:predict",
            form=FORMS["instances"],
            items=list(images[:, None]),
            expected=cnn.scores(scenarios.DIGITS, images),
            distinct=False,
        )
    ]
    for name, (path, items) in asked.items():
        form = FORMS[name]
        expected = np.stack([ask(base + path, form, item) for item in items])
        targets.append(Target(url=base + path, form=form, items=items, expected=expected, distinct=False))
    return targets


def _load(
    server: Server, targets: list[Target], options: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """A reading of the memory before the load and after each slice, and the sums over all slices."""
    totals = {"requests": 0, "errors": 0, "wrong": 0, "checked": 0, "seconds": 0.0}
    samples = [_sample(server, 0)]
    started = time.monotonic()

    def one(target: Target) -> load.Outcome:
        return load.run(target, connections=_CONNECTIONS, seconds=options.slice_s, with_wrk=load.has_wrk())

    with ThreadPoolExecutor(len(targets)) as pool:
        while totals["requests"] < options.requests and time.monotonic() - started < options.limit_s:
            for outcome in pool.map(one, targets):
                for name in ("requests", "errors", "wrong", "checked"):
                    totals[name] += getattr(outcome, name)
            samples.append(_sample(server, int(totals["requests"])))
    return samples, totals | {"seconds": time.monotonic() - started}


def _sample(server: Server, requests: int) -> dict[str, Any]:
    memory = server.memory_mb()
    print(
        f"{requests:>9,}", *(f"{role} {memory[role][1]:.1f} MB" for role in sorted(memory)), file=sys.stderr, flush=True
    )
    return {"requests": requests, "memory_mb": {role: {"pss": pss, "rss": rss} for role, (pss, rss) in memory.items()}}


def _verdict(role: str, samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether the processes of that role are small enough and flat; false where there are too few readings to tell."""
    largest = max(sample["memory_mb"][role]["rss"] for sample in samples)
    late = samples[len(samples) // 3 :]
    rss = np.array([sample["memory_mb"][role]["rss"] for sample in late])
    millions = np.array([sample["requests"] for sample in late]) / 1e6
    verdict = {"role": role, "largest_rss_mb": largest, "is_small": largest <= LIMITS_MB[role], "is_flat": False}
    if len(late) > 3:
        slope, start = np.polyfit(millions, rss, 1)
        growth = float(slope * (millions[-1] - millions[0]))
        noise = max(0.01 * largest, 2 * float(np.std(rss - (slope * millions + start))))
        verdict |= {"mb_per_million": float(slope), "growth_mb": growth, "noise_mb": noise, "is_flat": growth <= noise}
    return verdict


def _markdown(data: dict[str, Any]) -> str:
    totals, stamp = data["totals"], data["machine"]
    lines = [
        "# Memory over many requests",
        "",
        f"`{stamp['command']}`, commit {stamp['commit']}, {stamp['date']}, {stamp['cpu']}, {stamp['cores']} cores, "
        f"{stamp['kernel']}, Python {stamp['python']}.",
        "",
        f"{totals['requests']:,.0f} requests to digits, sentiment and word2vec together in {totals['seconds']:.0f} s; "
        f"{totals['checked']:,.0f} answers checked, {totals['wrong']:.0f} wrong, {totals['errors']:.0f} errors.",
        "",
        "| process | largest RSS MB | limit MB | MB per 10⁶ requests | growth, noise MB | small | flat |",
        "| --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for v in data["verdicts"]:
        growth = (
            [f"{v['mb_per_million']:.2f}", f"{v['growth_mb']:.2f}, {v['noise_mb']:.2f}"]
            if "growth_mb" in v
            else ["–"] * 2
        )
        yes = ["yes" if v[name] else "no" for name in ("is_small", "is_flat")]
        cells = [v["role"], f"{v['largest_rss_mb']:.1f}", str(LIMITS_MB[v["role"]]), *growth, *yes]
        lines.append("| " + " | ".join(cells) + " |")
    roles = sorted(data["samples"][0]["memory_mb"])
    lines += ["", "| requests | " + " | ".join(f"{role} RSS / PSS MB" for role in roles) + " |"]
    lines += ["| ---: " * (len(roles) + 1) + "|"]
    for sample in data["samples"]:
        of = [sample["memory_mb"][role] for role in roles]
        cells = [f"{sample['requests']:,}", *(f"{m['rss']:.1f} / {m['pss']:.1f}" for m in of)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
