"""The official OpenFeature clients against the real binary.

    python3 tests/clients                          everything
    python3 tests/clients suite                    the public Gherkin suite
    python3 tests/clients parity                   one unit, one variant, whichever client asks
    python3 tests/clients examples                 examples/python and examples/typescript
    python3 tests/clients large                    a set of flags larger than a client's message
    python3 tests/clients failover                 clients of three nodes whose leader is killed
    python3 tests/clients soak --minutes 60        clients that stay attached; only when it is named

Exit 0 when all of it holds, 1 when something does not, 2 when a run could not be made.
"""

import argparse
import signal
import sys

import installation
import server
from server import ServerError, find_binary


def arguments() -> argparse.Namespace:
    written = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(prog="tests/clients", description=__doc__, formatter_class=written)
    parser.add_argument("what", nargs="*", metavar="WHAT", help="suite, parity, examples, large, failover (the default: all five), soak")
    parser.add_argument("--binary", help="featureops; default: the newer of target/release and target/debug")
    parser.add_argument("--runs", default="", metavar="REGEX", help="only these runs of the suite, as 'python rpc v2'")
    parser.add_argument("--only", default="", metavar="REGEX", help="only these scenarios; counts are not asserted")
    parser.add_argument("--no-control", action="store_true", help="leave out scenarios that stop or change the server")
    parser.add_argument("--minutes", type=float, default=60, help="how long a soak takes")
    parser.add_argument(
        "--tokens", action="store_true", help="servers ask for tokens: commands, OFREP and the node's own API show one"
    )
    parser.add_argument("--list", action="store_true", help="show each run's scenarios and what it leaves out, and end")
    parser.add_argument("--install", action="store_true", help="install the clients and the suite, and end")
    parsed = parser.parse_args()
    unknown = set(parsed.what) - {"suite", "parity", "examples", "large", "failover", "soak"}
    if unknown:
        parser.error(f"'{min(unknown)}' is not one of suite, parity, examples, large, failover, soak")
    return parsed


def main(options: argparse.Namespace) -> int:
    # Only inside the virtual environment are the clients there to be imported.
    import examples
    import failover
    import large
    import parity
    import runs
    import soak
    from child_client import Child
    from python_client import Python

    testbed = installation.suite()
    if options.list:
        runs.show(testbed)
        return 0
    folder = installation.node()
    rust = installation.rust()
    if options.install:
        return 0
    binary = find_binary(options.binary, installation.ROOT)
    print(f"testing {binary}", flush=True)

    languages = {
        "python": Python(),
        "node": Child("node", ["node", "runner.mjs"], folder),
        "rust": Child("rust", [str(rust)], rust.parent),
    }
    server.tokens = options.tokens
    what = options.what or ["suite", "parity", "examples", "large", "failover"]
    faults = 0
    try:
        if "suite" in what:
            faults += runs.perform(binary, testbed, languages, options)
        if "parity" in what:
            faults += parity.run(binary, languages)
        if "examples" in what:
            faults += examples.run(binary, folder)
        if "large" in what:
            faults += large.run(binary, languages)
        if "failover" in what:
            faults += failover.run(binary, languages)
        if "soak" in what:
            faults += soak.run(binary, languages, options.minutes)
    finally:
        for language in languages.values():
            language.end()
    print("all holds" if not faults else f"{faults} faults", flush=True)
    return 1 if faults else 0


if __name__ == "__main__":
    # An end from outside must end the nodes, too: their owners end them on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parsed = arguments()
    try:
        installation.enter_python()
        status = main(parsed)
    except (installation.InstallationError, ServerError) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
