"""Clients attached to the three nodes of a cluster while its leader is killed with -9 and returns, in every round another time.

    kill -9 of the leader ── changes through a node that is left ── the killed node returns
        clients of the nodes that are left   stay ready, serve each change within seconds and are told of it
        clients of the killed node           READY -> STALE -> READY at most, then serve what changed while they were away, and
                                             are told of something
"""

import collections
import json
import random
import time

from client import Target
from server import HOST, Server, ServerError, free_ports

SEED = 5
NODES = 3
ROUNDS = 4
FLAGS = 40
VARIANTS = ("a", "b", "c")
ENVIRONMENT = "failover"
# Shorter than the clients' grace, which is 4 s: none may give up. A machine that is gone for longer is the suite's business.
DOWN_SECONDS = 1.0
# A change is told at most once a second, a client then reads and compiles it; an election comes on top.
SETTLE_SECONDS_MAX = 15
# What a client serves it tells of within this time, and any word of its state that is still under way comes, too.
TOLD_SECONDS = 3.0
PATIENCE_SECONDS = 40
# (language, mode, options): with their caches, as applications have them. Rust's tell an application of no events.
CLIENTS = (
    ("python", "rpc", {"cache": "lru"}),
    ("python", "in-process", {}),
    ("node", "rpc", {"cache": "lru"}),
    ("node", "in-process", {}),
    ("rust", "in-process", {}),
)
SILENT = ("rust",)
KINDS = ("ready", "stale", "error", "change")
# What may be heard of the state by the clients of a killed node: nothing of an error, and no second loss.
LOST_AND_FOUND = ([], ["ready"], ["stale"], ["stale", "ready"])


def run(binary, languages) -> int:
    """How many times a client was wrong; each is printed."""
    servers = []
    attached = []
    try:
        servers.extend(_cluster(binary))
        for node, server in enumerate(servers, 1):
            for language, mode, options in CLIENTS:
                handle = languages[language].open(Target(mode, server.ports[mode], options))
                attached.append(_Attached(node, language, mode, handle))
        return _Failover(servers, attached).run()
    finally:
        for one in attached:
            one.handle.close()
        for server in servers:
            server.end()


def _cluster(binary):
    peers = [f"{HOST}:{port}" for port in free_ports(NODES)]
    sets = [(ENVIRONMENT, ENVIRONMENT, _document(["a"] * FLAGS))]
    for node, peer in enumerate(peers, 1):
        settings = {"node": str(node), "peer_listen": peer}
        if node == 1:
            yield Server(binary, sets, "v3", settings)
            continue
        server = Server(binary, sets, "v3", settings | {"join": ",".join(peers)}, founds=False)
        yield server
        _patiently(lambda server=server, node=node: server.command("cluster", "promote", str(node)))


def _patiently(act):
    end = time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return act()
        except ServerError:
            if time.monotonic() > end:
                raise
            time.sleep(0.1)


def _document(defaults: list) -> dict:
    """Half of the flags are the same for everybody and so cached, half are not."""

    def flag(number: int, default: str) -> dict:
        flag = {"state": "ENABLED", "variants": {name: name for name in VARIANTS}, "defaultVariant": default}
        if number % 2:
            flag["targeting"] = {"if": [{"==": [{"var": "plan"}, "pro"]}, "c", None]}
        return flag

    return {"flags": {f"flag-{number}": flag(number, default) for number, default in enumerate(defaults)}}


class _Attached:
    def __init__(self, node: int, language: str, mode: str, handle):
        self.node = node
        self.name = f"{language} {mode} at node {node}"
        self.handle = handle
        self.silent = language in SILENT
        if not self.silent:
            for kind in KINDS:
                handle.listen(kind)

    def heard(self) -> tuple[list, set]:
        """States in their order, and flags told as changed, since the last time."""
        states, flags = [], set()
        while not self.silent and (event := self.handle.next_event(0.01)) is not None:
            if event.kind == "change":
                flags |= set(event.flags)
            else:
                states.append(event.kind)
        return states, flags


class _Failover:
    def __init__(self, servers: list, attached: list):
        self._servers = servers
        self._attached = attached
        self._dice = random.Random(SEED)
        self._defaults = ["a"] * FLAGS
        self._seen = collections.Counter()
        self._faults = 0

    def run(self) -> int:
        self._agree("at the start", self._attached)
        time.sleep(TOLD_SECONDS)
        for one in self._attached:
            # A client that is ready when it is asked to listen may say so at once.
            one.heard()
        for round_ in range(1, ROUNDS + 1):
            self._round(round_)
        seen = ", ".join(f"{count} x {what}" for what, count in sorted(self._seen.items()))
        verdict = "FAILED" if self._faults else "passed"
        print(f"{verdict}  failover: {ROUNDS} leaders killed under {len(self._attached)} clients: {seen}", flush=True)
        return self._faults

    def _round(self, round_: int) -> None:
        leader = self._leader()
        stay = [one for one in self._attached if one.node != leader]
        away = [one for one in self._attached if one.node == leader]
        left = self._servers[leader % NODES]
        self._servers[leader - 1].lose(DOWN_SECONDS)
        changed = self._write(left)
        self._agree(f"in round {round_}, its node left", stay)
        self._servers[leader - 1].settle()
        self._agree(f"in round {round_}, its node back", away)
        time.sleep(TOLD_SECONDS)
        for one in stay:
            states, told = one.heard()
            if states:
                self._fault(f"{one.name} lost nothing in round {round_}, and told of {states}")
            if not one.silent and (missing := changed - told):
                self._fault(f"{one.name} was not told of {sorted(missing)} in round {round_}")
            self._seen["stayed ready"] += 1
        for one in away:
            states, _ = one.heard()
            if states not in LOST_AND_FOUND:
                self._fault(f"{one.name} told of {states} in round {round_}: once stale, once ready is the most")
            if one.handle.state() != "ready":
                self._fault(f"{one.name} is {one.handle.state()} after round {round_}")
            if not one.silent:
                self._seen[" ".join(["ready", *states])] += 1
        # And a change when all are back: nobody was forgotten.
        changed = self._write(left)
        self._agree(f"after round {round_}", self._attached)
        time.sleep(TOLD_SECONDS)
        for one in self._attached:
            _, told = one.heard()
            if not one.silent and (missing := changed - told):
                self._fault(f"{one.name} was not told of {sorted(missing)} after round {round_}")

    def _leader(self) -> int:
        """By the word of all."""

        def ask() -> int:
            said = [json.loads(server.command("cluster", "status", "-o", "json")) for server in self._servers]
            leaders = {int(one.get("leader", 0)) for one in said}
            if len(leaders) != 1 or 0 in leaders:
                raise ServerError(f"the nodes name the leaders {sorted(leaders)}")
            return leaders.pop()

        return _patiently(ask)

    def _write(self, server: Server) -> set:
        """Gives some flags another default, by a node that may have to wait for a leader; which ones."""
        numbers = self._dice.sample(range(FLAGS), 4)
        for number in numbers:
            others = [name for name in VARIANTS if name != self._defaults[number]]
            self._defaults[number] = self._dice.choice(others)
        _patiently(lambda: server.set_document(ENVIRONMENT, _document(self._defaults)))
        return {f"flag-{number}" for number in numbers}

    def _agree(self, when: str, attached: list) -> None:
        """Each serves the document before the time is up."""
        end = time.monotonic() + SETTLE_SECONDS_MAX
        while True:
            wrong = {one.name: found for one in attached if (found := self._wrong(one.handle))}
            if not wrong:
                return
            if time.monotonic() > end:
                break
            time.sleep(0.1)
        for name, found in wrong.items():
            self._fault(f"{name} {when}: {found} after {SETTLE_SECONDS_MAX} s")

    def _wrong(self, handle) -> str | None:
        for number, default in enumerate(self._defaults):
            for plan in ("pro", "free"):
                wanted = "c" if number % 2 and plan == "pro" else default
                answer = handle.evaluate("String", f"flag-{number}", "none", {"targetingKey": "unit", "plan": plan})
                if answer.value != wanted:
                    return f"flag-{number} for {plan} is {json.dumps(answer.value)}, wanted {wanted}"
        return None

    def _fault(self, text: str) -> None:
        self._faults += 1
        print(f"        {text}", flush=True)
