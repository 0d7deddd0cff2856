"""One unit, one variant, whichever client asks: over rpc, over OFREP, in-process, and by the node's own API.

    native evaluation  ==  rpc  ==  OFREP  ==  in-process      for every unit and flag, before, while and after an
                                                               experiment is reallocated 100 times

The node's own answer is the reference. Units are ASCII: the Node in-process client hashes other text wrongly (it takes
UTF-16 code units). In-process clients each hash by one generation of `fractional`, so each is asked on sets of its own.
"""

import random
import time
import uuid
from datetime import UTC, datetime, timedelta

import defects
from client import Target
from native import Native
from server import Server

SEED = 7
UNITS = 300
REALLOCATIONS = 100
# Everybody is asked about every unit after these, and after the last about in-process clients, too.
CHECKED_EVERY = 20
# A change is told at most once a second; a client then reads and compiles it.
SETTLE_SECONDS_MAX = 10

IN_PROCESS = {"v2": ("node",), "v3": ("python", "rust")}

EXPERIMENT = "button-test"
ARMS = ("grey", "green", "blue")


def document() -> dict:
    """Imported rules that bucket in every way there is."""
    colors = {"grey": "#ccc", "green": "#0f0", "blue": "#00f"}

    def flag(targeting) -> dict:
        return {"state": "ENABLED", "variants": colors, "defaultVariant": "grey", "targeting": targeting}

    equal = [[arm, 1] for arm in ARMS]
    by_email = {"cat": [{"var": "$flagd.flagKey"}, {"var": "email"}]}
    return {
        "flags": {
            "by-unit": flag({"fractional": [["grey", 50], ["green", 30], ["blue", 20]]}),
            "by-attribute": flag({"fractional": [by_email, *equal]}),
            "by-shared-seed": flag({"fractional": [{"cat": ["seed", {"var": "targetingKey"}]}, *equal]}),
            "within-rule": flag({"if": [{"ends_with": [{"var": "email"}, ".org"]}, {"fractional": equal}, "blue"]}),
        }
    }


def contexts() -> list:
    dice = random.Random(SEED)
    shapes = (
        lambda: f"user-{dice.randrange(10**6)}",
        lambda: str(uuid.UUID(int=dice.getrandbits(128))),
        lambda: str(dice.randrange(10**9)),
        lambda: "".join(chr(dice.randrange(0x20, 0x7F)) for _ in range(dice.randrange(1, 64))),
    )
    units = [shapes[number % len(shapes)]() for number in range(UNITS)]
    return [
        {"targetingKey": unit, "email": f"{number}@example.{'org' if number % 2 else 'com'}", "plan": number % 3}
        for number, unit in enumerate(units)
    ]


def run(binary, languages) -> int:
    """How many disagreements there were; each is printed."""
    return sum(_generation(binary, languages, fractional) for fractional in ("v2", "v3"))


def _generation(binary, languages, fractional: str) -> int:
    server = Server(binary, [("parity", "parity", document())], fractional)
    native = Native(server)
    clients = {}
    try:
        _define(server)
        for name, language in languages.items():
            modes = ("rpc", "ofrep") + (("in-process",) if name in IN_PROCESS[fractional] else ())
            for mode in modes:
                clients[f"{name} {mode}"] = language.open(Target(mode, server.ports[mode]))
        return _compare_all(server, native, clients, fractional)
    finally:
        for handle in clients.values():
            handle.close()
        native.close()
        server.end()


def _define(server: Server) -> None:
    where = ("--environment", "parity")
    variants = [word for arm in ARMS for word in ("--variant", f"{arm}={arm}")]
    base = ("--type", "string", *variants, "--default", "grey", "--safe", "grey", *where)
    split = 'email ends_with ".org" -> split grey=25%, green=25%, blue=50%'
    server.command("flag", "set", "split", *base, "--rule", split)
    server.command("flag", "set", "button", *base, "--rule", "plan = 2 -> blue")
    server.command("metric", "set", "purchase", "--kind", "proportion", "--direction", "higher", *where)
    arms = [word for arm in ARMS for word in ("--arm", arm, "--established", arm)]
    server.command(
        *("experiment", "create", EXPERIMENT, "--flag", "button", *arms),
        *("--primary-metric", "purchase", "--policy", "fixed", *where),
    )
    server.command("experiment", "start", EXPERIMENT, *where)
    _define_placed(server, base, arms, where)


def _define_placed(server: Server, base: tuple, arms: list, where: tuple) -> None:
    """A ramp under way, a sticky split written twice, a segment in a segment, and an experiment with a part of a layer."""
    now = datetime.now(UTC).replace(microsecond=0)
    # So slow that no unit's turn comes between two clients' answers.
    begin, end = ((now + days * timedelta(days=1)).isoformat().replace("+00:00", "Z") for days in (-20, 40))
    server.command("flag", "set", "ramp", *base, "--rule", f'always -> ramp green from "{begin}" to "{end}" else blue')
    for weights in ("grey=30%, green=30%, blue=40%", "grey=20%, green=50%, blue=30%"):
        server.command("flag", "set", "sticky", *base, "--rule", f"kept: always -> sticky {weights}")
    server.command("segment", "set", "members", "--clause", 'email ends_with ".org"', *where)
    server.command("segment", "set", "guests", "--clause", "in-segment(members) and plan = 1", *where)
    rules = ("--rule", "in-segment(guests) -> green", "--rule", "not in-segment(members) -> blue")
    server.command("flag", "set", "grouped", *base, *rules)
    server.command("flag", "set", "placed", *base)
    server.command("layer", "set", "page", *where)
    server.command("holdout", "set", "nobody", "--share", "10%", *where)
    server.command(
        *("experiment", "create", "placed-test", "--flag", "placed", *arms, "--primary-metric", "purchase"),
        *("--policy", "fixed", "--layer", "page", "--layer-share", "60%", "--holdout", "nobody", *where),
    )
    server.command("experiment", "start", "placed-test", *where)


def _compare_all(server: Server, native: Native, clients: dict, fractional: str) -> int:
    asked = contexts()
    dice = random.Random(SEED)
    flags = [*document()["flags"], "split", "button", "ramp", "sticky", "grouped", "placed"]
    faults = _compare(native, clients, flags, asked, f"{fractional}, at the start")
    for number in range(1, REALLOCATIONS + 1):
        first, second = sorted(dice.randrange(1, 10_000) for _ in range(2))
        weights = (first, second - first, 10_000 - second)
        shares = [f"{arm}={weight}" for arm, weight in zip(ARMS, weights, strict=True)]
        server.command("experiment", "set-allocation", EXPERIMENT, *shares, "--environment", "parity")
        if number % CHECKED_EVERY == 0:
            faults += _compare(native, clients, ["button"], asked, f"{fractional}, after {number} reallocations")
    faults += _compare(native, clients, flags, asked, f"{fractional}, at the end")
    return faults


def _compare(native: Native, clients: dict, flags: list, asked: list, when: str) -> int:
    faults = 0
    for flag in flags:
        for name, handle in clients.items():
            found, wanted = _answers(native, handle, flag, asked)
            for context, answer, right in zip(asked, found, wanted, strict=True):
                if (answer.variant, answer.value) != right:
                    faults += 1
                    if faults <= 5:
                        print(f"        {name} {flag} {context}: {answer}, the node says {right}", flush=True)
                # What is cached would outlive the next reallocation.
                elif answer.reason in ("STATIC", "CACHED") and "reason" not in defects.UNHEARD.get(name, ()):
                    faults += 1
                    print(f"        {name} {flag} {context}: {answer.reason}, and it varies by unit", flush=True)
    checked = len(flags) * len(asked) * len(clients)
    verdict = "FAILED" if faults else "passed"
    print(f"{verdict}  parity {when}: {checked - faults} of {checked} answers agree", flush=True)
    return faults


def _answers(native: Native, handle, flag: str, asked: list) -> tuple:
    """What the client says and what the node says. A change reaches them a little later than its author: both are asked
    again until they agree or the time is over."""
    end = time.monotonic() + SETTLE_SECONDS_MAX
    while True:
        found = handle.evaluate_each("String", flag, "none", asked)
        wanted = [(answer.variant, answer.value.string_value) for answer in native.evaluate_each("parity", flag, asked)]
        if [(answer.variant, answer.value) for answer in found] == wanted or time.monotonic() > end:
            return found, wanted
        time.sleep(0.1)
