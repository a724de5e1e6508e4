"""The results as JSON and as a page."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def write(data: dict[str, Any], folder: Path) -> list[Path]:
    """Write `gpu.md` and `gpu.json` into the folder; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    page, figures = folder / "gpu.md", folder / "gpu.json"
    page.write_text("\n".join(_page(data)) + "\n")
    figures.write_text(json.dumps(data, indent=1, default=str) + "\n")
    return [page, figures]


def faults(data: dict[str, Any]) -> list[str]:
    """What is wrong: answers that differ too much or failed, and limits that do not hold."""
    parts = data["parts"]
    wrong = [f"{each['model']}: answers differ" for each in parts.get("answers", ()) if not each.get("is_right", True)]
    wrong += [
        f"{each['model']}: {each['faults']}" for each in parts.get("stack", ()) if each["errors"] or each["wrong"]
    ]
    wrong += [each["outcome"] for each in parts.get("limits", ()) if not each["is_right"]]
    return wrong + [f"{name}: {why}" for name, why in data["missing"].items()]


def _page(data: dict[str, Any]) -> Iterator[str]:
    machine = data["machine"]
    yield "# On a GPU"
    yield ""
    names = ", ".join(
        f"{gpu['name']} ({gpu['memory.total']}), driver {gpu['driver_version']}" for gpu in machine["gpus"]
    )
    yield f"{names or 'No GPU'}; device `{machine['device']}`; {machine['cpu']}, {machine['cores']} cores; {machine['kernel']}; Python {machine['python']}; "
    yield ", ".join(f"{name} {version}" for name, version in machine["cuda"].items())
    yield f"Commit {machine['commit']}, {machine['date']}, by `{machine['command']}`."
    for part, write_part in _PARTS.items():
        if part in data["parts"]:
            yield ""
            yield from write_part(data["parts"])
    if wrong := faults(data):
        yield ""
        yield "## Faults"
        yield ""
        yield from (f"- {each}" for each in wrong)


def _answers(parts: dict[str, Any]) -> Iterator[str]:
    yield "## Answers beside the CPU's"
    yield ""
    yield "| model | format | largest difference | the same when it is run again |"
    yield "| --- | --- | --- | --- |"
    for each in parts["answers"]:
        if "skipped" in each:
            yield f"| {each['model']} | {each['format']} | not run: {each['skipped']} | |"
        else:
            same = "yes" if each["repeats_exactly"] else "no"
            yield f"| {each['model']} | {each['format']} | {each['difference']:.1e} of the largest number | {same} |"


def _sweep(parts: dict[str, Any]) -> Iterator[str]:
    yield "## ONNX Runtime by itself"
    for name in ("texts", "images"):
        yield ""
        yield f"| {name}: rows in a batch | first run | a run | rows/s | rows/s, two threads |"
        yield "| --- | --- | --- | --- | --- |"
        for each in parts["sweep"][name]:
            yield (
                f"| {each['batch']} | {each['first_ms']:.0f} ms | {each['run_ms']:.2f} ms | {each['rows_per_s']:,.0f} "
                f"| {each['rows_per_s_two_threads']:,.0f} |"
            )
    if "options" in parts["sweep"]:
        yield ""
        yield "| options of the session | rows in a batch | first run | a run | memory |"
        yield "| --- | --- | --- | --- | --- |"
        for each in parts["sweep"]["options"]:
            if "memory_mb" in each:
                yield f"| {each['options']} | | | | {each['memory_mb']} MB |"
            else:
                figures = f"{each['first_ms']:.0f} ms | {each['run_ms']:.2f} ms"
                yield f"| {each['options']} | {each['batch']} | {figures} | |"
        yield ""
        yield "| products of FP32 | model | a run of 16 rows | largest difference from the CPU |"
        yield "| --- | --- | --- | --- |"
        for name, found in parts["sweep"]["precision"].items():
            for each in found:
                kind = "TF32" if each["tf32"] else "FP32"
                yield f"| {kind} | {name} | {each['run_ms']:.2f} ms | {each['difference']:.1e} |"


def _transfers(parts: dict[str, Any]) -> Iterator[str]:
    yield "## What moving the data costs"
    yield ""
    ways = list(dict.fromkeys(way for figures in parts["transfers"].values() for way in figures))
    yield f"| | {' | '.join(ways)} |"
    yield f"| --- |{' --- |' * len(ways)}"
    for name, figures in parts["transfers"].items():
        yield f"| {name} | {' | '.join(_figure(way, figures.get(way)) for way in ways)} |"


def _figure(way: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if "rows/s" in way else f"{value:.3f} ms"


def _stack(parts: dict[str, Any]) -> Iterator[str]:
    yield "## The whole stack"
    yield ""
    yield (
        "| model | instances | connections | rows a request | rows/s | of the best by itself | p50 | p99 | rows a batch "
        "| queue, input, compute, output | GPU busy | GPU memory | errors, wrong |"
    )
    yield f"|{' --- |' * 13}"
    for each in parts["stack"]:
        best = max((one["rows_per_s"] for one in parts.get("sweep", {}).get(each["model"], ())), default=0.0)
        share = f"{each['rows_per_s'] / best:.2f}" if best and each["connections"] > 1 else ""
        stages = ", ".join(f"{100 * value:.0f} %" for value in each["shares"].values())
        yield (
            f"| {each['model']} | {each['instances']} | {each['connections']} | {each['rows_a_request']} "
            f"| {each['rows_per_s']:,.0f} | {share} | {each['p50_ms']:.1f} ms | {each['p99_ms']:.1f} ms "
            f"| {each['rows_a_batch']:.1f} | {stages} | {each['utilization']} % | {each['gpu_memory_mb']} MB "
            f"| {each['errors']}, {each['wrong']} of {each['checked']} |"
        )
    first = parts["stack"][0]
    if "answered_again_s" in first:
        yield ""
        yield f"After the model's process was killed, requests were answered again after {first['answered_again_s']:.1f} s."


def _limits(parts: dict[str, Any]) -> Iterator[str]:
    yield "## At the limits"
    yield ""
    yield "| tried | outcome |"
    yield "| --- | --- |"
    for each in parts["limits"]:
        yield f"| {each['tried']} | {each['outcome'].replace('|', '/')} |"


_PARTS = {"answers": _answers, "sweep": _sweep, "transfers": _transfers, "stack": _stack, "limits": _limits}
