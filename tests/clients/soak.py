"""Clients that stay attached for as long as one likes, while flags change, the server dies and comes back, and nothing happens.

    change, a burst of changes, kill -9 and return, silence     in an order of the seed
        -> every client serves what the document says, of every flag, within seconds; none says a change it did not hear of

A cache that was not emptied, a stream that broke without anybody's notice, a change that was told to nobody: each shows as a
value that stays old.
"""

import json
import random
import time

from client import ClientError, Event, Target
from server import Server

SEED = 11
FLAGS = 200
VARIANTS = ("a", "b", "c")
ENVIRONMENT = "soak"
# A change is told at most once a second; a client then reads and compiles it.
SETTLE_SECONDS_MAX = 10
# Clients wait between tries, and their transports longer still.
RETURN_SECONDS_MAX = 30
BURST = 10
DOWN_SECONDS_MAX = 3
# Beyond the server's own keep-alive of 20 s and the patience of most proxies.
SILENCE_SECONDS = (25, 90)
# (language, mode, options): with their caches, as applications have them.
CLIENTS = (
    ("python", "rpc", {"cache": "lru"}),
    ("python", "in-process", {}),
    ("node", "rpc", {"cache": "lru"}),
    ("node", "in-process", {}),
    ("rust", "in-process", {}),
)
# Rust's clients tell an application of no events.
LISTENING = ("python rpc", "node rpc")


def run(binary, languages, minutes: float) -> int:
    """How many times a client was wrong; each is printed."""
    server = Server(binary, [(ENVIRONMENT, ENVIRONMENT, _document(["a"] * FLAGS))], "v3")
    clients = {}
    try:
        for language, mode, options in CLIENTS:
            target = Target(mode, server.ports[mode], options)
            clients[f"{language} {mode}"] = languages[language].open(target)
        for name in LISTENING:
            clients[name].listen("change")
        return _Soak(server, clients).run(minutes)
    finally:
        for handle in clients.values():
            handle.close()
        server.end()


def _document(defaults: list) -> dict:
    """Half of the flags are the same for everybody and so cached, half are not."""

    def flag(number: int, default: str) -> dict:
        flag = {"state": "ENABLED", "variants": {name: name for name in VARIANTS}, "defaultVariant": default}
        if number % 2:
            flag["targeting"] = {"if": [{"==": [{"var": "plan"}, "pro"]}, "c", None]}
        return flag

    return {"flags": {f"flag-{number}": flag(number, default) for number, default in enumerate(defaults)}}


class _Soak:
    def __init__(self, server: Server, clients: dict):
        self._server = server
        self._clients = clients
        self._dice = random.Random(SEED)
        self._defaults = ["a"] * FLAGS
        self._counts = {}
        self._faults = 0

    def run(self, minutes: float) -> int:
        end = time.monotonic() + minutes * 60
        self._agree("at the start", SETTLE_SECONDS_MAX)
        while time.monotonic() < end:
            act = self._dice.choices((self._change, self._burst, self._lose, self._rest), (6, 2, 1, 1))[0]
            name = act.__name__.strip("_")
            self._counts[name] = self._counts.get(name, 0) + 1
            act()
        done = ", ".join(f"{count} of {name}" for name, count in sorted(self._counts.items()))
        verdict = "FAILED" if self._faults else "passed"
        print(f"{verdict}  soak of {minutes:g} minutes, {len(self._clients)} clients: {done}", flush=True)
        return self._faults

    def _change(self) -> None:
        before = list(self._defaults)
        self._write(self._dice.randrange(1, 6))
        self._agree("after a change", SETTLE_SECONDS_MAX)
        self._heard(before)

    def _burst(self) -> None:
        before = list(self._defaults)
        for _ in range(BURST):
            self._write(1)
        self._agree("after a burst of changes", SETTLE_SECONDS_MAX)
        self._heard(before)

    def _lose(self) -> None:
        self._server.lose(self._dice.uniform(0, DOWN_SECONDS_MAX))
        self._server.settle()
        # A change while they are away, or just after.
        self._write(3)
        self._agree("after its server's loss", RETURN_SECONDS_MAX)
        self._drain()

    def _rest(self) -> None:
        time.sleep(self._dice.uniform(*SILENCE_SECONDS))
        self._change()

    def _write(self, count: int) -> None:
        numbers = self._dice.sample(range(FLAGS), count)
        for number in numbers:
            others = [name for name in VARIANTS if name != self._defaults[number]]
            self._defaults[number] = self._dice.choice(others)
        self._server.set_document(ENVIRONMENT, _document(self._defaults))

    def _agree(self, when: str, seconds: float) -> None:
        """Each client serves the document before the time is up, and goes on to."""
        end = time.monotonic() + seconds
        wrong = {}
        while True:
            wrong = {name: found for name, handle in self._clients.items() if (found := self._wrong(handle))}
            if not wrong:
                return
            if time.monotonic() > end:
                break
            time.sleep(0.1)
        for name, found in wrong.items():
            self._fault(f"{name} {when}, {seconds:g} s later: {len(found)} answers are old, as {found[0]}")

    def _wrong(self, handle) -> list:
        wrong = []
        for number, default in enumerate(self._defaults):
            key = f"flag-{number}"
            for plan in ("pro", "free"):
                wanted = "c" if number % 2 and plan == "pro" else default
                answer = handle.evaluate("String", key, "none", {"targetingKey": "unit", "plan": plan})
                if answer.value != wanted:
                    wrong.append(f"{key} for {plan}: {json.dumps(answer.value)}, wanted {wanted}")
                    # One is enough to ask again.
                    return wrong
        return wrong

    def _heard(self, before: list) -> None:
        """What changed and changed back within a second may be told, and is not demanded here."""
        pairs = enumerate(zip(before, self._defaults, strict=True))
        changed = {f"flag-{number}" for number, (old, new) in pairs if old != new}
        for name in LISTENING:
            heard = self._drain_one(name)
            if missing := changed - heard:
                self._fault(f"{name} was told of {len(heard)} changed flags, not of {sorted(missing)}")

    def _drain(self) -> None:
        for name in LISTENING:
            self._drain_one(name)

    def _drain_one(self, name: str) -> set:
        heard = set()
        # The publication of the last change may come a second after its value could be asked for.
        while (event := self._next(name)) is not None:
            heard |= set(event.flags)
        return heard

    def _next(self, name: str) -> Event | None:
        try:
            return self._clients[name].next_event(1.5)
        except ClientError:
            return None

    def _fault(self, text: str) -> None:
        self._faults += 1
        print(f"        {text}", flush=True)
