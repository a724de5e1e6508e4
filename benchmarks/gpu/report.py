"""The results as JSON and as a page."""

import json
from collections.abc import Iterator, Sequence
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
    names = [f"{gpu['name']} ({gpu['memory.total']}), driver {gpu['driver_version']}" for gpu in machine["gpus"]]
    yield f"{', '.join(names) or 'No GPU'}; device `{machine['device']}`; {machine['cpu']}, {machine['cores']} cores;"
    yield f"{machine['kernel']}; Python {machine['python']};"
    yield ", ".join(f"{name} {version}" for name, version in machine["cuda"].items()) + "."
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
    yield "The largest difference, of the largest number of the output; of names and numbers, the share that differs."
    yield ""
    yield "| model | format | output | with TF32 | without | the same when it is run again |"
    yield "| --- | --- | --- | --- | --- | --- |"
    for each in parts["answers"]:
        about = f"| {each['model']} | {each['format']} |"
        if "skipped" in each:
            yield f"{about} not run: {each['skipped']} | | | |"
            continue
        same = "yes" if each["repeats_exactly"] else "no"
        for name, difference in each["differences"].items():
            yield f"{about} {name} | {difference:.1e} | {each['differences_fp32'][name]:.1e} | {same} |"


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
        yield "| options of the session | rows in a batch | first run | a run | GPU memory | difference |"
        yield "| --- | --- | --- | --- | --- | --- |"
        for each in parts["sweep"]["options"]:
            if "memory_mb" in each:
                yield f"| {each['options']} | | | | {each['memory_mb']} MB | {each['difference']:.1e} |"
            else:
                figures = f"{each['first_ms']:.0f} ms | {each['run_ms']:.2f} ms"
                yield f"| {each['options']} | {each['batch']} | {figures} | | |"
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
    yield "A run's milliseconds, and rows per second of two threads, by the way that the data take (`offline.py`)."
    yield ""
    ways = list(next(iter(parts["transfers"].values()))["ways"])
    yield f"| | {' | '.join(ways)} | copy to the GPU | copy from it |"
    yield f"| --- |{' --- |' * (len(ways) + 2)}"
    for name, found in parts["transfers"].items():
        runs = [f"{of['run_ms']:.2f} ms, {of['rows_per_s']:,.0f}/s" for of in found["ways"].values()]
        copies = [f"{found[way]:.2f} ms" if way in found else "" for way in ("to_gpu_ms", "from_gpu_ms")]
        yield f"| {name} | {' | '.join([*runs, *copies])} |"


def _stack(parts: dict[str, Any]) -> Iterator[str]:
    yield "## The whole stack"
    yield ""
    yield (
        "| model | instances | connections | rows a request | rows/s | of one thread's, of two threads' | p50 | p99 "
        "| rows a batch | queue, input, compute, output | GPU busy | GPU memory | errors, wrong |"
    )
    yield f"|{' --- |' * 13}"
    for each in parts["stack"]:
        share = _share(each, parts.get("sweep", {}).get(each["model"], ()))
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
        again_s = first["answered_again_s"]
        yield f"After the models' process was killed, requests were answered again after {again_s:.1f} s."


def _share(each: dict[str, Any], sweep: Sequence[dict[str, Any]]) -> str:
    """The stack's rows per second beside the best batch's, of one thread and of two."""
    if not sweep or each["connections"] == 1:
        return ""
    bests = [max(one[kind] for one in sweep) for kind in ("rows_per_s", "rows_per_s_two_threads")]
    return ", ".join(f"{each['rows_per_s'] / best:.2f}" for best in bests)


def _limits(parts: dict[str, Any]) -> Iterator[str]:
    yield "## At the limits"
    yield ""
    yield "| tried | outcome |"
    yield "| --- | --- |"
    for each in parts["limits"]:
        yield f"| {each['tried']} | {each['outcome'].replace('|', '/')} |"


_PARTS = {"answers": _answers, "sweep": _sweep, "transfers": _transfers, "stack": _stack, "limits": _limits}
