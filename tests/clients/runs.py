"""Every run of the suite, how many scenarios it has, and what else it needs: which servers, which retries.

The counts are what must be performed. A run that performs fewer or more has lost or gained scenarios without anybody's
decision, and fails.
"""

import collections
import re
import sys
import time
from dataclasses import dataclass

import defects
import suite
from forbidden import Forbidden
from scenario import Stage
from server import Server, ServerError, free_ports

# The server's own context, sent to clients: the suite's flagd-context-aware reads it.
SETTINGS = {"context_values": "injectedmetadata=set"}
# Its loss of one second is a race between the server's return and the client's patience, on a busy machine.
RETRIED = {"gherkin/events.feature:27": 3}


@dataclass(frozen=True)
class Run:
    suite: str
    language: str
    mode: str
    fractional: str
    # Scenarios that only evaluate, and those that stop, change or configure the server.
    evaluating: int
    controlling: int

    @property
    def name(self) -> str:
        return f"{self.suite} {self.language} {self.mode} {self.fractional}"


# Node in-process on v3 sets is absent: that client hashes by v2; and Rust's on v2 sets: it hashes by v3. Python's in-process client hashes by v3; it is here on
# v2 sets for all that is not a bucket.
RUNS = [
    Run("gherkin", "python", "rpc", "v2", 136, 10),
    Run("gherkin", "python", "rpc", "v3", 247, 10),
    Run("gherkin", "python", "in-process", "v3", 249, 12),
    Run("gherkin", "python", "in-process", "v2", 138, 12),
    Run("gherkin", "python", "ofrep", "v2", 129, 0),
    Run("gherkin", "python", "ofrep", "v3", 240, 0),
    Run("gherkin", "node", "rpc", "v2", 136, 10),
    Run("gherkin", "node", "rpc", "v3", 247, 10),
    Run("gherkin", "node", "in-process", "v2", 138, 12),
    Run("gherkin", "node", "ofrep", "v2", 129, 0),
    Run("gherkin", "node", "ofrep", "v3", 240, 0),
    Run("gherkin", "rust", "rpc", "v2", 116, 0),
    Run("gherkin", "rust", "rpc", "v3", 186, 0),
    Run("gherkin", "rust", "in-process", "v3", 192, 0),
    Run("gherkin", "rust", "ofrep", "v2", 116, 0),
    Run("gherkin", "rust", "ofrep", "v3", 186, 0),
    Run("evaluator", "python", "rpc", "v2", 125, 0),
    Run("evaluator", "python", "in-process", "v2", 125, 0),
    Run("evaluator", "python", "ofrep", "v2", 125, 0),
    Run("evaluator", "node", "rpc", "v2", 125, 0),
    Run("evaluator", "node", "in-process", "v2", 125, 0),
    Run("evaluator", "node", "ofrep", "v2", 125, 0),
    Run("evaluator", "rust", "rpc", "v2", 112, 0),
    Run("evaluator", "rust", "in-process", "v3", 103, 0),
    Run("evaluator", "rust", "ofrep", "v2", 112, 0),
]


class Servers:
    """Started when first asked for: one for each document a provider kind is to find, and each generation."""

    def __init__(self, binary, testbed):
        self._binary = binary
        self._testbed = testbed
        self._started = {}
        self._forbidden = None

    def of(self, kind: str, fractional: str, dangling: bool) -> Server:
        key = (kind, fractional, dangling)
        if key not in self._started:
            sets = suite.sets(self._testbed, kind)
            # Then the context comes with the flags, and only so.
            settings = SETTINGS | ({"flagd_disable_sync_metadata": "true"} if kind == "syncpayload" else {})
            self._started[key] = Server(
                self._binary, sets if dangling else suite.without_dangling(sets), fractional, settings
            )
        server = self._started[key]
        server.settle()
        return server

    def closed_port(self) -> int:
        return free_ports(1)[0]

    def forbidden_port(self) -> int:
        if self._forbidden is None:
            self._forbidden = Forbidden()
        return self._forbidden.port

    def end(self) -> None:
        for server in self._started.values():
            server.end()
        if self._forbidden is not None:
            self._forbidden.end()


class Outcome:
    def __init__(self, run: Run):
        self.run = run
        self.performed = {"evaluating": 0, "controlling": 0}
        self.passed = {"evaluating": 0, "controlling": 0}
        self.defects = 0
        self.faults = []

    def lines(self):
        counts = ", ".join(
            f"{self.passed[what]} of {self.performed[what]} {what}" for what in self.performed if self.performed[what]
        )
        excepted = f", {self.defects} known client defects" if self.defects else ""
        yield f"{'FAILED' if self.faults else 'passed'}  {self.run.name}: {counts}{excepted}"
        for fault in self.faults:
            yield f"        {fault}"


def perform(binary, testbed, languages, options) -> int:
    """Every run that `options` asks for; how many faults there were, each printed."""
    servers = Servers(binary, testbed)
    faults = 0
    try:
        for run in RUNS:
            if re.search(options.runs, run.name):
                stage = Stage(languages[run.language], run.mode, run.fractional, servers)
                outcome = _perform(run, testbed, stage, options)
                print(*outcome.lines(), sep="\n", flush=True)
                faults += len(outcome.faults)
    finally:
        servers.end()
    return faults


def show(testbed) -> None:
    """What each run takes, and why it leaves out the rest."""
    for run in RUNS:
        counts = collections.Counter()
        reasons = collections.Counter()
        for scenario in suite.scenarios(testbed, run.suite):
            if reason := suite.left_out(scenario, run.language, run.mode, run.fractional):
                reasons[reason] += 1
            else:
                counts["controlling" if scenario.controls else "evaluating"] += 1
        print(f"{run.name}: {counts['evaluating']} evaluating, {counts['controlling']} controlling")
        for reason, count in reasons.most_common():
            print(f"    {count:3} left out: {reason}")


def _perform(run: Run, testbed, stage: Stage, options) -> Outcome:
    outcome = Outcome(run)
    try:
        for scenario in suite.scenarios(testbed, run.suite):
            if suite.left_out(scenario, run.language, run.mode, run.fractional):
                continue
            if options.only and not re.search(options.only, f"{scenario.place} {scenario.name}"):
                continue
            if scenario.controls and options.no_control:
                continue
            _one(outcome, stage, scenario)
    finally:
        stage.end()
    wanted = {"evaluating": run.evaluating, "controlling": 0 if options.no_control else run.controlling}
    if not options.only and outcome.performed != wanted:
        outcome.faults.append(f"performed {outcome.performed}, and {wanted} are expected of this run")
    return outcome


def _one(outcome: Outcome, stage: Stage, scenario) -> None:
    what = "controlling" if scenario.controls else "evaluating"
    defect = defects.known(outcome.run, scenario)
    fault = None
    tries = RETRIED.get(scenario.place, 0) + 1
    for attempt in range(tries):
        started = time.monotonic()
        try:
            stage.perform(scenario)
            fault = None
            break
        except ServerError:
            raise
        except Exception as error:  # Whatever a client throws is the scenario's fault, and the next one still runs.
            fault = f"{scenario.place} {scenario.name}: {error or type(error).__name__}"
            if attempt + 1 < tries:
                seconds = time.monotonic() - started
                print(f"        tried again after {seconds:.1f} s: {fault}", file=sys.stderr, flush=True)
    outcome.performed[what] += 1
    if defect and fault:
        outcome.defects += 1
    elif defect:
        outcome.faults.append(f"{scenario.place} {scenario.name}: passes, and is listed as a client's defect: {defect}")
    elif fault:
        outcome.faults.append(fault)
    else:
        outcome.passed[what] += 1
