"""A set of flags larger than one message of the clients: 4 MiB, which none of the official ones lets an application raise.

    whole set, in-process      no client takes it; the node's log says why, and the way out
    a part of it, by selector  every client serves it
    whole set, over rpc        every client serves it: only answers travel
"""

import json

from client import ClientError, Target
from server import Server

# 5 MiB: 5,000 flags of a kibibyte.
FLAGS = 5_000
PADDING = "x" * 900
PART = "shop"
LIMIT_TOLD = "larger than clients take by default"
# As many as one import may hold.
IMPORTED_AT_ONCE = 2_500


def run(binary, languages) -> int:
    """How many clients did otherwise; each is printed."""
    server = Server(binary, [("bulk", "bulk", _document(range(1))), (PART, PART, _document(range(10)))], "v3")
    try:
        for first in range(0, FLAGS, IMPORTED_AT_ONCE):
            path = server.folder / "part.json"
            path.write_text(json.dumps(_document(range(first, first + IMPORTED_AT_ONCE))))
            server.command("flag", "import", str(path), "--environment", "bulk")
        return sum(_judge(server, name, language) for name, language in languages.items()) + _said(server)
    finally:
        server.end()


def _document(numbers: range) -> dict:
    variants = {"on": PADDING, "off": ""}
    return {
        "flags": {
            f"flag-{number}": {"state": "ENABLED", "variants": variants, "defaultVariant": "on"}
            for number in numbers
        }
    }


def _judge(server: Server, name: str, language) -> int:
    faults = []
    if _serves(server, language, "in-process", {}):
        faults.append("takes the whole set: this program and the README say that none does")
    if not _serves(server, language, "in-process", {"selector": f"source={PART}"}):
        faults.append("does not serve a part chosen by a selector")
    if not _serves(server, language, "rpc", {}):
        faults.append("does not serve over rpc")
    for fault in faults:
        print(f"        {name} {fault}", flush=True)
    print(f"{'FAILED' if faults else 'passed'}  {name} with a set of more than 4 MiB", flush=True)
    return len(faults)


def _serves(server: Server, language, mode: str, options: dict) -> bool:
    try:
        handle = language.open(Target(mode, server.ports[mode], options))
    except ClientError:
        return False
    try:
        return handle.evaluate("String", "flag-7", "none", {"targetingKey": "unit"}).value == PADDING
    finally:
        handle.close()


def _said(server: Server) -> int:
    if LIMIT_TOLD in (server.folder / "log").read_text(errors="replace"):
        return 0
    print(f"        the node's log does not say that the set is too large", flush=True)
    return 1
