"""The public suite as data: its scenarios, which of them a run takes, and its flag files.

A scenario that a run leaves out has a reason of one line here; a run's size is then asserted (`runs.py`), so a scenario
that silently falls out of the selection fails the run.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path

from gherkin.parser import Parser
from gherkin.pickles.compiler import Compiler

import steps

# Where the suite keeps its features, and what its own documents are called by selectors.
FEATURES = {"gherkin": "gherkin", "evaluator": "evaluator/gherkin"}


@dataclass(frozen=True)
class Scenario:
    suite: str
    file: str
    # Of the scenario, or of its row in an outline.
    line: int
    name: str
    tags: frozenset
    steps: tuple

    @property
    def place(self) -> str:
        return f"{FEATURES[self.suite]}/{self.file}:{self.line}"

    @property
    def controls(self) -> bool:
        """Whether it needs the server stopped, changed or configured otherwise."""
        return any(isinstance(step, steps.CONTROL) for step in self.steps) or any(
            isinstance(step, steps.Provider) and step.kind in ("metadata", "syncpayload", "forbidden")
            for step in self.steps
        )


def scenarios(testbed: Path, suite: str) -> list:
    found = []
    for path in sorted((testbed / FEATURES[suite]).glob("*.feature")):
        document = Parser().parse(path.read_text(encoding="utf8"))
        document["uri"] = path.name
        lines = _lines(document["feature"]["children"])
        for pickle in Compiler().compile(document):
            # Its client configuration table is about environment variables; no server takes part, so its steps are
            # not even read.
            texts = [] if path.name == "config.feature" else pickle["steps"]
            found.append(
                Scenario(
                    suite=suite,
                    file=path.name,
                    line=lines[pickle["astNodeIds"][-1]],
                    name=pickle["name"],
                    tags=frozenset(tag["name"].removeprefix("@") for tag in pickle["tags"]),
                    steps=tuple(steps.read(step["text"], _table(step)) for step in texts),
                )
            )
    return found


def _lines(children) -> dict:
    lines = {}
    for child in children:
        if rule := child.get("rule"):
            lines |= _lines(rule["children"])
        if scenario := child.get("scenario"):
            lines[scenario["id"]] = scenario["location"]["line"]
            for examples in scenario["examples"]:
                lines |= {row["id"]: row["location"]["line"] for row in examples["tableBody"]}
    return lines


def _table(step) -> list:
    rows = step.get("argument", {}).get("dataTable", {}).get("rows", [])
    return [[cell["value"] for cell in row["cells"]] for row in rows]


def left_out(scenario: Scenario, language: str, mode: str, fractional: str) -> str | None:
    """Why a run does not take the scenario; none if it does."""
    tags = scenario.tags
    if scenario.file == "config.feature":
        return "about the client's own options, no server takes part"
    if scenario.suite == "gherkin":
        # OFREP has no tag of its own; it is asked what rpc is asked.
        tag = "in-process" if mode == "in-process" else "rpc"
        if tag not in tags and scenario.file != "targeting.feature":
            return f"not tagged @{tag}"
        if mode == "ofrep" and tags & GRPC_ONLY:
            return "about streams, caches and states, which OFREP clients do not have"
    if language == "rust" and (tags & GRPC_ONLY or scenario.controls or listens(scenario)):
        return "about events, caches and states, of which Rust's clients tell an application nothing"
    if language == "rust" and any(isinstance(step, steps.Attribute) and step.nests for step in scenario.steps):
        return "asks with objects or lists in the context, which Rust's clients send as the text of their debug form"
    if language == "rust" and mode == "in-process" and any(
        isinstance(step, steps.Flag) and step.key == "ref-to-nonexistent-evaluator-flag" for step in scenario.steps
    ):
        return "Rust's in-process client refuses a whole document for one $ref to nothing"
    for tag, reason in BEYOND.items():
        if tag in tags:
            return reason
    generations = {tag for tag in tags if re.fullmatch(r"fractional-v\d", tag)}
    if generations and f"fractional-{fractional}" not in generations:
        return "rows of another generation of fractional"
    return None


def listens(scenario: Scenario) -> bool:
    return any(isinstance(step, (steps.Listen, steps.State)) for step in scenario.steps)


GRPC_ONLY = {"caching", "events", "grace", "reconnect", "unavailable", "forbidden", "contextEnrichment"}
BEYOND = {
    "targetURI": "needs an Envoy in front, for its name resolution",
    "unixsocket": "nodes listen on TCP",
    "customCert": "nodes have no TLS of their own yet",
    "deprecated": "withdrawn by the suite",
}


def dangles(document: dict, key: str) -> bool:
    """Whether a flag of the document names an evaluator that is not there."""
    named = re.findall(r'"\$ref": "([^"]*)"', json.dumps(document["flags"][key].get("targeting")))
    return not set(named) <= set(document.get("$evaluators", {}))


def without_dangling(sets: list) -> list:
    return [
        (environment, source, document | {"flags": {
            key: flag for key, flag in document["flags"].items() if not dangles(document, key)
        }})
        for environment, source, document in sets
    ]


def all_flags(testbed: Path) -> dict:
    """The suite's flag files merged as its own launchpad merges them: by name, deep, without those for selectors."""
    merged = {}
    for path in sorted((testbed / "flags").glob("*.json")):
        if not path.name.startswith("selector-"):
            _merge(merged, json.loads(path.read_text(encoding="utf8")))
    return merged


def _merge(into: dict, other: dict) -> None:
    for key, value in other.items():
        if isinstance(value, dict) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def sets(testbed: Path, kind: str) -> list:
    """(environment, source, document) of the server a provider of that kind is to find; later ones win."""

    def flags(name: str) -> dict:
        return json.loads((testbed / name).read_text(encoding="utf8"))

    if kind == "metadata":
        name = "selector-flag-combined-metadata.json"
        return [("combined", f"rawflags/{name}", flags(f"flags/{name}"))]
    if kind == "evaluator":
        return [("testkit", "testkit", flags("evaluator/flags/testkit-flags.json"))]
    return [
        ("all-flags", "flags/allFlags.json", all_flags(testbed)),
        ("selector-flags", "rawflags/selector-flags.json", flags("flags/selector-flags.json")),
    ]
