"""The account of a run, on the screen and as chaos.md and chaos.json."""

import json
from pathlib import Path
from typing import Any

from millrace.provenance import stamp
from tests.chaos.accounting import Result
from tests.support.load import Kind, Tally


def _row(name: str, tally: Tally) -> dict[str, Any]:
    kinds: tuple[Kind, ...] = ("right", "refused", "wrong", "lost", "hung")
    return {"scenario": name, "sent": tally.sent, **{kind: tally.counts[kind] for kind in kinds}}


def table(results: dict[str, Result]) -> str:
    """The outcomes by scenario, in Markdown."""
    rows = [_row(name, result.tally) for name, result in results.items()]
    total = {key: sum(row[key] for row in rows) for key in rows[0] if key != "scenario"}
    lines = [
        "| scenario | sent | answered right | refused | wrong | lost | hung | refused with |",
        "| --- |" + " ---: |" * 6 + " --- |",
    ]
    for row, refusals in zip(rows, (result.tally.refusals() for result in results.values()), strict=True):
        words = ", ".join(f"{status}: {count:,}" for status, count in sorted(refusals.items()))
        lines.append("| " + " | ".join(_cell(value) for value in row.values()) + f" | {words} |")
    lines.append("| **all** | " + " | ".join(_cell(value) for value in total.values()) + " | |")
    return "\n".join(lines)


def _cell(value: str | int) -> str:
    return f"{value:,}" if isinstance(value, int) else value


def write(folder: Path, counts: str, results: dict[str, Result]) -> None:
    """Write chaos.md, which begins with the table `counts`, and chaos.json."""
    where = stamp()
    scenarios = {
        name: _row(name, result.tally)
        | {
            "refused_with": result.tally.reasons(),
            "faults": result.faults(),
            "facts": {
                fact: {"value": f.value, "unit": f.unit, "at_most": f.at_most, "at_least": f.at_least}
                for fact, f in result.facts.items()
            },
        }
        for name, result in results.items()
    }
    facts = [
        f"| {name} | {fact} | {value} |" for name, result in results.items() for fact, value in result.facts.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    head = "\n".join(f"- {key}: {value}" for key, value in where.items())
    measured = "\n".join(["| scenario | what | measured (limit) |", "| --- | --- | --- |", *facts])
    (folder / "chaos.md").write_text(
        f"# What it cost to break it\n\n{head}\n\n{counts}\n\n{measured}\n", encoding="utf-8"
    )
    (folder / "chaos.json").write_text(json.dumps(where | {"scenarios": scenarios}, indent=2) + "\n", encoding="utf-8")
