"""Exported flags in the official Python in-process engine: each case must give the variant that the server gives.

    python exported_rules.py CASES.json

CASES.json is written by `cargo test -p featureops-evaluation --test exported_rules`. The engine is the package
openfeature-flagd-core; 2.0 hashes by `fractional`'s third generation.
"""

import json
import logging
import sys

from openfeature.contrib.tools.flagd.core import FlagdCore
from openfeature.evaluation_context import EvaluationContext

DEFAULTS = {"boolean": True, "string": "code default", "float": -1.0, "object": {}}


def main() -> int:
    logging.disable(logging.CRITICAL)
    with open(sys.argv[1], encoding="utf-8") as file:
        suite = json.load(file)
    core = FlagdCore()
    core.set_flags(suite["document"])
    wrong = 0
    for case in suite["cases"]:
        attributes = dict(case["context"])
        context = EvaluationContext(attributes.pop("targetingKey", None), attributes)
        resolve = getattr(core, f"resolve_{case['type']}_value")
        try:
            variant = resolve(case["flag"], DEFAULTS[case["type"]], context).variant
        except Exception as error:  # Whatever it raises, it is not the expected variant.
            variant = f"{type(error).__name__}: {error}"
        if variant != case["variant"]:
            wrong += 1
            if wrong <= 5:
                flag = suite["document"]["flags"][case["flag"]]
                print(f"{variant!r} instead of {case['variant']!r}\n  {json.dumps(flag)}\n  {json.dumps(case)}")
    print(f"{len(suite['cases']) - wrong} of {len(suite['cases'])} cases agree")
    return min(wrong, 1)


if __name__ == "__main__":
    sys.exit(main())
