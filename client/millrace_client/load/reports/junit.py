"""For CI: one test case for each objective, and one for whether the run is valid."""

from collections.abc import Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from millrace_client.load.objectives import Verdict


def junit(run: Mapping[str, Any], verdicts: Sequence[Verdict]) -> str:
    """The XML."""
    name = f"load {' '.join(run['target']['models'])}"
    suite = ElementTree.Element("testsuite", name=name, tests=str(len(verdicts) + 1), timestamp=run["started_at"])
    valid = ElementTree.SubElement(suite, "testcase", classname=name, name="the run is valid", time=str(run["seconds"]))
    if not run["valid"]:
        ElementTree.SubElement(valid, "error", message="; ".join(run["invalid"]))
    for verdict in verdicts:
        case = ElementTree.SubElement(suite, "testcase", classname=name, name=verdict.objective)
        if not verdict.is_met:
            ElementTree.SubElement(case, "failure", message=f"it is {verdict.value}")
        elif not verdict.is_claimed:
            ElementTree.SubElement(case, "error", message="too few requests for this percentile")
    wrong = [case for case in suite if len(case)]
    suite.set("failures", str(sum(case[0].tag == "failure" for case in wrong)))
    suite.set("errors", str(sum(case[0].tag == "error" for case in wrong)))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
