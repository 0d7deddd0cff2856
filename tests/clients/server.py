"""The binary under test: one node with its fronts, and the hand that stops, starts and changes it.

    Server(binary, sets, fractional) -> serve, `environment set`, `flag import`, ready on four free ports
    lose(seconds)   kill -9, and the same node again on the same ports and folder after that time
    change()        the suite's changing-flag gets its other default, by a new import
    command(...)    any other line of the command line, as a person would type it

What the suite calls its launchpad, without a launcher between: the node is a child of this process and ends with it.
"""

import atexit
import json
import os
import queue
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path

HOST = "127.0.0.1"
START_SECONDS_MAX = 30
COMMAND_SECONDS_MAX = 60
STOP_SECONDS_MAX = 20


# Whether servers ask for tokens: then each makes an admin's for its commands, and one for OFREP's clients, by their port.
tokens = False
ofrep_tokens = {}


class ServerError(Exception):
    """The binary did not do what a run needs; the text holds what it said."""


class Server:
    def __init__(self, binary: Path, sets: list, fractional: str = "v2", settings: dict | None = None, founds: bool = True):
        """With `founds` it gets the sets; else it follows others that have them, by its settings."""
        self.binary = binary
        self.fractional = fractional
        self.settings = settings or {}
        self.documents = {environment: document for environment, _, document in sets}
        self.ports = dict(zip(("native", "rpc", "management", "in-process", "ofrep"), free_ports(5), strict=True))
        self.folder = Path(tempfile.mkdtemp(prefix="featureops-clients-"))
        self._process = None
        self._returning = None
        self.token = None
        atexit.register(self.end)
        self._start()
        if tokens:
            # flagd's clients cannot show one: on loopback they need none.
            self.token = self._make_token("root", "admin")
            ofrep_tokens[self.ports["ofrep"]] = self._make_token("app", "evaluate")
        for environment, source, _ in sets if founds else ():
            self.command("environment", "set", environment, "--source", source, "--fractional", fractional[1:])
            self._import(environment)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.ports['native']}"

    def command(self, *arguments: str, accept=(0,)) -> str:
        """Its standard output."""
        ended = subprocess.run(
            [self.binary, "--server", self.url, *arguments],
            capture_output=True,
            text=True,
            timeout=COMMAND_SECONDS_MAX,
            env=_environment() | ({"FEATUREOPS_TOKEN": self.token} if self.token else {}),
        )
        if ended.returncode not in accept:
            said = f"exit {ended.returncode}\n{ended.stdout}{ended.stderr}"
            raise ServerError(f"featureops {' '.join(arguments)}: {said}")
        return ended.stdout

    def _make_token(self, name: str, role: str) -> str:
        return json.loads(self.command("token", "create", name, "--role", role, "-o", "json"))["secret"]

    def lose(self, seconds: float) -> None:
        """Nobody is warned, as when a machine is gone. Returns at once; `settle` waits for the return."""
        self.settle()
        self._process.kill()
        self._process.wait(STOP_SECONDS_MAX)
        self._returning = threading.Timer(seconds, self._start)
        self._returning.start()

    def settle(self) -> None:
        """Waits until a lost server has returned."""
        if self._returning is not None:
            self._returning.join()
            self._returning = None

    def change(self) -> None:
        for environment, document in self.documents.items():
            if flag := document["flags"].get("changing-flag"):
                flag["defaultVariant"] = "bar" if flag["defaultVariant"] == "foo" else "foo"
                self._import(environment)
                return
        raise ServerError("no document of this server holds changing-flag")

    def set_document(self, environment: str, document: dict) -> None:
        self.documents[environment] = document
        self._import(environment)

    def end(self) -> None:
        atexit.unregister(self.end)
        if self._returning is not None:
            self._returning.cancel()
            self._returning = None
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                self._process.kill()
            self._process = None
        shutil.rmtree(self.folder, ignore_errors=True)

    def _import(self, environment: str) -> None:
        path = self.folder / f"{environment}.json"
        path.write_text(json.dumps(self.documents[environment], ensure_ascii=False), encoding="utf8")
        self.command("flag", "import", str(path), "--environment", environment, "--prune")

    def _start(self) -> None:
        order = ("rpc", "management", "in-process", "ofrep")
        settings = {
            "flagd_ports": ",".join(f"{HOST}:{self.ports[name]}" for name in order),
            "flagd_environments": ",".join(self.documents),
            **self.settings,
        }
        arguments = ["serve", "--data", str(self.folder / "data"), "--listen", f"{HOST}:{self.ports['native']}"]
        for name, value in settings.items():
            arguments += ["--set", f"{name}={value}"]
        log = open(self.folder / "log", "ab")
        self._process = subprocess.Popen(
            [self.binary, *arguments], stdout=subprocess.PIPE, stderr=log, text=True, env=_environment()
        )
        line = _first_line(self._process.stdout, START_SECONDS_MAX)
        if not line.startswith("serving on "):
            self._process.kill()
            said = (self.folder / "log").read_text(errors="replace")[-4000:]
            raise ServerError(f"featureops {' '.join(arguments)} did not start: '{line.strip()}'\n{said}")
        wait_open([self.ports[name] for name in order])


def _environment() -> dict:
    """Without the variables of this run: they would be settings of the node."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("FEATUREOPS_", "FLAGD_"))}


def _first_line(stream, seconds: float) -> str:
    lines = queue.Queue(1)

    def read() -> None:
        lines.put(stream.readline())
        # Whatever else it prints: a full pipe would stop it.
        for _ in stream:
            pass

    threading.Thread(target=read, daemon=True).start()
    try:
        return lines.get(timeout=seconds)
    except queue.Empty:
        return ""


def free_ports(count: int) -> list:
    """Ports nobody listens on now. Held all at once, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def wait_open(ports: list, seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    for port in ports:
        while True:
            try:
                socket.create_connection((HOST, port), timeout=1).close()
                break
            except OSError as error:
                if time.monotonic() > end:
                    raise ServerError(f"nothing listens on port {port}: {error}") from error
                time.sleep(0.02)


def find_binary(named: str | None, root: Path) -> Path:
    target = Path(os.environ.get("CARGO_TARGET_DIR", root / "target"))
    candidates = [Path(named)] if named else [target / profile / "featureops" for profile in ("release", "debug")]
    found = [path.resolve() for path in candidates if path.is_file()]
    if not found:
        raise ServerError(
            f"no binary at {' or '.join(map(str, candidates))}: "
            "run `cargo build -p featureops`, or name one with --binary"
        )
    # The newer of two: an old release beside a new debug build would test the past.
    return max(found, key=lambda path: path.stat().st_mtime)
