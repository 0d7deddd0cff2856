"""What a run needs beside Python and Node: the official clients and the public suite, at exact versions, in target/.

    requirements.txt   -> target/clients/venv            the entry runs itself again in it
    node/package*.json -> target/clients/node            `npm ci`
    rust/              -> target/clients/rust            `cargo build`, protoc from grpcio-tools
    crates.io package  -> target/clients/suite           from cargo's own cache if it is there; its checksum is checked

Each folder carries the digest of what it was made from, and is made again when that changes. Nothing here is committed:
the suite is not ours, and the clients are to be what their makers publish.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import urllib.request
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
CACHE = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "clients"

# flagd-testbed 3.10.3 as the official Rust provider ships it.
PACKAGE = "open-feature-flagd-0.3.0"
PACKAGE_URL = f"https://static.crates.io/crates/open-feature-flagd/{PACKAGE}.crate"
PACKAGE_SHA256 = "c35123d6b138c7e222a046ea1db93b516db487d6aab35579645e1168fb2a44f8"
SUITE_VERSION = "3.10.3"
DOWNLOAD_TIMEOUT_SECONDS = 60


class InstallationError(Exception):
    """Something that a run needs could not be had; the text says what and how."""


def enter_python() -> None:
    """Runs this same command again in the virtual environment, unless it runs there already."""
    folder = CACHE / "venv"
    python = folder / "bin" / "python"
    if Path(sys.prefix) == folder:
        return
    requirements = HERE / "requirements.txt"
    if not _fresh(folder, requirements):
        _say(f"installing the Python clients into {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=True)
        _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(requirements)])
        _mark(folder, requirements)
    sys.stdout.flush()
    os.execv(python, [str(python), *sys.argv])


def node() -> Path:
    """The folder whose node_modules hold the Node clients."""
    folder = CACHE / "node"
    sources = (HERE / "node" / "package.json", HERE / "node" / "package-lock.json")
    if not _fresh(folder, *sources):
        if shutil.which("npm") is None:
            raise InstallationError("npm is missing: install Node.js 20 or newer")
        _say(f"installing the Node clients into {folder}")
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for source in sources:
            shutil.copy(source, folder)
        _run(["npm", "ci", "--silent", "--no-audit", "--no-fund", "--ignore-scripts"], cwd=folder)
        _mark(folder, *sources)
    # Beside node_modules, where imports are looked up.
    for program in (HERE / "node").glob("*.mjs"):
        shutil.copy(program, folder)
    return folder


def rust() -> Path:
    """The program that holds the Rust clients."""
    folder = CACHE / "rust"
    # The flagd client's build script asks for protoc, which comes with the Python clients' tools.
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(folder),
        "PROTOC": str(CACHE / "venv" / "bin" / "python-grpc-tools-protoc"),
    }
    if not (folder / "debug").is_dir():
        _say(f"building the Rust clients in {folder}")
    _run(["cargo", "build", "--quiet", "--locked"], cwd=HERE / "rust", env=environment)
    return folder / "debug" / "featureops-official-clients"


def suite() -> Path:
    """The suite's folder, flagd-testbed."""
    folder = CACHE / "suite" / PACKAGE / "flagd-testbed"
    version = folder / "version.txt"
    if not version.is_file():
        shutil.rmtree(CACHE / "suite", ignore_errors=True)
        with tarfile.open(_package(), "r:gz") as archive:
            archive.extractall(CACHE / "suite", filter="data")
    found = version.read_text().strip()
    if found != SUITE_VERSION:
        raise InstallationError(f"{version} says {found}, not {SUITE_VERSION}: delete {CACHE / 'suite'}")
    return folder


def _package() -> Path:
    """The package's file, checked: cargo's own copy, or a download."""
    home = Path(os.environ.get("CARGO_HOME", Path.home() / ".cargo"))
    for known in sorted(home.glob(f"registry/cache/*/{PACKAGE}.crate")):
        if _sha256(known.read_bytes()) == PACKAGE_SHA256:
            return known
    _say(f"downloading {PACKAGE_URL}")
    try:
        with urllib.request.urlopen(PACKAGE_URL, timeout=DOWNLOAD_TIMEOUT_SECONDS) as answer:
            content = answer.read()
    except OSError as error:
        raise InstallationError(
            f"{PACKAGE_URL}: {error}; without a network, put the file into {home}/registry/cache/<index>/"
        ) from error
    if _sha256(content) != PACKAGE_SHA256:
        raise InstallationError(f"{PACKAGE_URL} has sha256 {_sha256(content)}, not {PACKAGE_SHA256}")
    CACHE.mkdir(parents=True, exist_ok=True)
    target = CACHE / f"{PACKAGE}.crate"
    target.write_bytes(content)
    return target


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _digest(sources) -> str:
    return _sha256(b"\0".join(source.read_bytes() for source in sources))


def _fresh(folder: Path, *sources: Path) -> bool:
    mark = folder / "made-from"
    return mark.is_file() and mark.read_text() == _digest(sources)


def _mark(folder: Path, *sources: Path) -> None:
    (folder / "made-from").write_text(_digest(sources))


def _run(command, cwd=None, env=None) -> None:
    try:
        ended = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise InstallationError(f"{command[0]} is missing: {error}") from error
    if ended.returncode != 0:
        raise InstallationError(f"{' '.join(command)} failed:\n{ended.stdout}{ended.stderr}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
