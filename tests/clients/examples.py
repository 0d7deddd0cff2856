"""Runs examples/python and examples/typescript as a reader would, and looks at what the node counted.

Each example's customers must be exposed once and its purchases counted once; the node's own status is the judge.
"""

import re
import shutil
import subprocess
import sys

from installation import HERE, ROOT
from native import Native
from server import HOST, Server

CUSTOMERS = 40
RUN_SECONDS_MAX = 120


def run(binary, node_folder) -> int:
    """How many examples did not do what they say; each is told."""
    faults = 0
    for name, command in (("python", _python), ("typescript", _typescript)):
        server = Server(binary, [("production", "production", {"flags": {}})])
        try:
            _define(server)
            _judge(server, *command(server, node_folder))
            print(f"passed  example {name}", flush=True)
        except (ExampleError, subprocess.TimeoutExpired) as error:
            faults += 1
            print(f"FAILED  example {name}: {error}", flush=True)
        finally:
            server.end()
    return faults


class ExampleError(Exception):
    """An example failed, or said something else than the node."""


def _define(server: Server) -> None:
    variants = [word for color in ("grey", "blue") for word in ("--variant", f"{color}={color}")]
    server.command("flag", "set", "button", "--type", "string", *variants, "--default", "grey", "--safe", "grey")
    server.command("metric", "set", "purchase", "--kind", "proportion", "--direction", "higher")
    arms = ("--arm", "grey", "--arm", "blue", "--established", "blue")
    server.command("experiment", "create", "buttons", "--flag", "button", *arms, "--primary-metric", "purchase")
    server.command("experiment", "start", "buttons")


def _options(server: Server, flags: str) -> list:
    return [
        *("--flags", flags, "--facts", f"{HOST}:{server.ports['native']}"),
        *("--proto", str(ROOT / "proto"), "--customers", str(CUSTOMERS)),
    ]


def _python(server: Server, _node_folder) -> tuple:
    options = _options(server, f"http://{HOST}:{server.ports['ofrep']}")
    return _said([sys.executable, "shop.py", *options], HERE / "examples" / "python")


def _typescript(server: Server, node_folder) -> tuple:
    # Beside node_modules, where imports are looked up.
    folder = node_folder / "example"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(HERE / "examples" / "typescript", folder)
    _output(["node", str(node_folder / "node_modules" / "typescript" / "bin" / "tsc")], folder)
    return _said(["node", "built/shop.js", *_options(server, f"{HOST}:{server.ports['rpc']}")], folder)


def _output(command: list, folder) -> str:
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=RUN_SECONDS_MAX)
    if ended.returncode != 0:
        raise ExampleError(f"{' '.join(command)}: exit {ended.returncode}\n{ended.stdout}{ended.stderr}")
    return ended.stdout


def _said(command: list, folder) -> tuple:
    output = _output(command, folder)
    found = re.search(r"(\d+) customers, (\d+) purchases, (\d+) counted", output)
    if not found:
        raise ExampleError(f"did not say what was counted: {output}")
    return tuple(map(int, found.groups()))


def _judge(server: Server, customers: int, purchases: int, counted: int) -> None:
    native = Native(server)
    try:
        status = native.status("production", "buttons")
    finally:
        native.close()
    if not 0 < purchases == counted:
        raise ExampleError(f"{purchases} purchases, {counted} of them counted")
    if not customers == CUSTOMERS == status.exposed_units:
        raise ExampleError(f"{customers} customers of {CUSTOMERS}, {status.exposed_units} exposed units at the node")
    converted = sum(totals.total for arm in status.arms for totals in arm.metrics if totals.metric == "purchase")
    if converted != purchases:
        raise ExampleError(f"{purchases} purchases, and {converted:g} customers converted at the node")
