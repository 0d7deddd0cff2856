"""The official OpenFeature clients against the real binary.

    python3 tests/clients                          everything
    python3 tests/clients suite                    the public Gherkin suite
    python3 tests/clients parity                   one unit, one variant, whichever client asks
    python3 tests/clients examples                 examples/python and examples/typescript

Exit 0 when all of it holds, 1 when something does not, 2 when a run could not be made.
"""

import argparse
import re
import sys

import installation


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/clients", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("what", nargs="*", metavar="WHAT", help="suite, parity, examples; default: all of them")
    parser.add_argument("--binary", help="featureops; default: the newer of target/release and target/debug")
    parser.add_argument("--runs", default="", metavar="REGEX", help="only these runs of the suite, as 'python rpc v2'")
    parser.add_argument("--only", default="", metavar="REGEX", help="only these scenarios; counts are not asserted then")
    parser.add_argument("--no-control", action="store_true", help="leave out scenarios that stop or change the server")
    parser.add_argument("--list", action="store_true", help="show each run's scenarios and what it leaves out, and end")
    parsed = parser.parse_args()
    unknown = set(parsed.what) - {"suite", "parity", "examples"}
    if unknown:
        parser.error(f"'{min(unknown)}' is not one of suite, parity, examples")
    return parsed


def main(options: argparse.Namespace) -> int:
    # Only inside the virtual environment are the clients there to be imported.
    import examples
    import parity
    import runs
    from child_client import Child
    from python_client import Python
    from server import ServerError, find_binary

    testbed = installation.suite()
    if options.list:
        return show(testbed)
    try:
        binary = find_binary(options.binary, installation.ROOT)
        print(f"testing {binary}", flush=True)
        folder = installation.node()
    except ServerError as error:
        raise installation.InstallationError(str(error)) from error

    languages = {"python": Python(), "node": Child("node", ["node", "runner.mjs"], folder)}
    faults = 0
    what = options.what or ["suite", "parity", "examples"]
    try:
        if "suite" in what:
            servers = runs.Servers(binary, testbed)
            only = re.compile(options.only) if options.only else None
            try:
                for run in runs.RUNS:
                    if re.search(options.runs, run.name):
                        outcome = runs.perform(run, testbed, languages[run.language], servers, only, not options.no_control)
                        print(*outcome.lines(), sep="\n", flush=True)
                        faults += len(outcome.faults)
            finally:
                servers.end()
        if "parity" in what:
            faults += parity.run(binary, languages)
        if "examples" in what:
            faults += examples.run(binary, folder)
    finally:
        for language in languages.values():
            language.end()
    print("all holds" if not faults else f"{faults} faults", flush=True)
    return 1 if faults else 0


def show(testbed) -> int:
    import collections

    import runs
    import suite

    for run in runs.RUNS:
        counts = collections.Counter()
        reasons = collections.Counter()
        for scenario in suite.scenarios(testbed, run.suite):
            if reason := suite.left_out(scenario, run.mode, run.fractional):
                reasons[reason] += 1
            else:
                counts["controlling" if scenario.controls else "evaluating"] += 1
        print(f"{run.name}: {counts['evaluating']} evaluating, {counts['controlling']} controlling")
        for reason, count in reasons.most_common():
            print(f"    {count:3} left out: {reason}")
    return 0


if __name__ == "__main__":
    parsed = arguments()
    try:
        installation.enter_python()
        status = main(parsed)
    except installation.InstallationError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    sys.exit(status)
