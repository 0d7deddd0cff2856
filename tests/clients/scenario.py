"""Performs one scenario: each step in its order, against a client and the server it is to find.

A failed expectation raises `Failed` with what was wanted and what came. Events are taken in the order in which they
came: waiting for one drops those before it and keeps those after, so a chain of three is a chain and not a set.
"""

import json
import time

import defects
import steps
from client import Handle, Language, Target

FRESH_TAGS = {"caching"}


class Failed(Exception):
    """An expectation of the scenario does not hold."""


class Stage:
    """What the scenarios of one run share: the client's language and mode, the servers, providers to be used again."""

    def __init__(self, language: Language, mode: str, fractional: str, servers):
        self.language = language
        self.mode = mode
        self.fractional = fractional
        self.servers = servers
        # Rust's in-process client refuses a whole document for one $ref to nothing.
        self.dangling = (language.name, mode) != ("rust", "in-process")
        self.unheard = defects.UNHEARD.get(f"{language.name} {mode}", set())
        self._kept = {}

    def perform(self, scenario) -> None:
        performance = _Performance(self, scenario)
        try:
            for step in scenario.steps:
                performance.step(step)
        finally:
            performance.end()

    def keep(self, target: Target) -> Handle:
        """One provider serves all scenarios that ask for the same and only evaluate."""
        key = (target.mode, target.port, json.dumps(target.options, sort_keys=True))
        if key not in self._kept:
            self._kept[key] = self.language.open(target)
        return self._kept[key]

    def end(self) -> None:
        for handle in self._kept.values():
            handle.close()
        self._kept.clear()


class _Performance:
    def __init__(self, stage: Stage, scenario):
        self._stage = stage
        self._options = {}
        self._context = {}
        self._flag = None
        self._kind = "stable"
        self._server = None
        self._handle = None
        self._answer = None
        self._event = None
        # Providers that are kept lost their server too, and may still wait before they try again.
        self._lost = any(isinstance(step, steps.Lose) for step in scenario.steps)
        # Events that came while a `Never` looked for its own.
        self._seen = []
        # A provider that listens, caches or loses its server is its scenario's own.
        self._own = bool(scenario.tags & FRESH_TAGS) or any(
            isinstance(step, (steps.Listen, steps.Lose, steps.Modify, steps.State)) for step in scenario.steps
        )

    def end(self) -> None:
        if self._own and self._handle is not None:
            self._handle.close()
        if self._server is not None:
            self._server.settle()
        if self._lost:
            self._stage.end()

    def step(self, step) -> None:
        match step:
            case steps.Option(name, value):
                self._options[name] = value
            case steps.Provider(kind):
                self._kind = kind
                self._open()
            case steps.Flag():
                self._flag = step
            case steps.Attribute((outer, inner), value):
                self._context.setdefault(outer, {})[inner] = value
            case steps.Attribute((name,), value):
                self._context[name] = value
            case steps.Listen(event):
                self._open().listen(event)
            case steps.Evaluate():
                self._answer = self._open().evaluate(self._flag.type, self._flag.key, self._flag.default, self._context)
            case steps.Lose(seconds):
                self._server.lose(seconds)
            case steps.Modify():
                self._server.change()
            case steps.Await(event, seconds):
                self._event = self._await(event, seconds)
            case steps.Never(event):
                self._never(event)
            case _:
                self._expect(step)

    def _expect(self, step) -> None:
        answer = self._answer
        match step:
            case steps.InPayload():
                _check(self._flag.key in self._event.flags, f"{self._flag.key} in the event", self._event.flags, None)
            case steps.Value(text):
                wanted = steps.cast(self._flag.type, text)
                same = answer.value == wanted and isinstance(answer.value, bool) == isinstance(wanted, bool)
                _check(same, f"value {wanted!r}", answer.value, answer)
            case steps.Detail(name, _) if name in self._stage.unheard:
                pass
            case steps.Metadata() if "metadata" in self._stage.unheard:
                pass
            case steps.Detail(name, wanted):
                found = getattr(answer, name) or ""
                _check(found == wanted, f"{name} '{wanted}'", found, answer)
            case steps.NoMetadata():
                _check(not answer.metadata, "no metadata", answer.metadata, None)
            case steps.Metadata(wanted):
                found = {key: answer.metadata.get(key) for key in wanted}
                _check(found == wanted, f"metadata {wanted}", answer.metadata, answer)
            case steps.State(wanted):
                found = self._handle.state()
                _check(found == wanted, f"state {wanted}", found, None)
            case _:
                raise steps.UnknownStep(f"{step} is read, and nothing performs it")

    def _open(self) -> Handle:
        if self._handle is not None:
            return self._handle
        stage = self._stage
        if self._kind in ("unavailable", "forbidden"):
            port = stage.servers.closed_port() if self._kind == "unavailable" else stage.servers.forbidden_port()
            self._handle = stage.language.open(Target(stage.mode, port, self._options), wait=False)
            return self._handle
        self._server = stage.servers.of(self._kind, stage.fractional, stage.dangling)
        target = Target(stage.mode, self._server.ports[stage.mode], self._options)
        self._handle = stage.language.open(target) if self._own else stage.keep(target)
        return self._handle

    def _await(self, kind: str, seconds: float):
        end = time.monotonic() + seconds
        before = []
        while (left := end - time.monotonic()) > 0:
            event = self._handle.next_event(left)
            if event is not None and event.kind == kind:
                return event
            if event is not None:
                before.append(event.kind)
                self._seen.append(event.kind)
        raise Failed(f"no {kind} event within {seconds:g} s, only {before or 'none'}")

    def _never(self, kind: str) -> None:
        while (event := self._handle.next_event(0)) is not None:
            self._seen.append(event.kind)
        _check(kind not in self._seen, f"no {kind} event", self._seen, None)


def _check(holds: bool, wanted: str, found, answer) -> None:
    if not holds:
        beside = f" ({answer.reason} {answer.error_code} {answer.error_message})".rstrip() if answer else ""
        raise Failed(f"wanted {wanted}, got {found!r}{beside}")
