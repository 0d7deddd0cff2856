"""Scenarios that no right server passes with these clients, one row for each cause: who, which, why.

A listed scenario that passes fails the run: the client was mended, and its row has to go.
"""

from dataclasses import dataclass

# An answer that leaves the value to the code's default has no variant (OFREP 0.3).
CODE_DEFAULT_BY_OFREP = frozenset(
    [f"gherkin/disabled.feature:{line}" for line in (19, 20, 21, 22, 23, 36)]
    + [f"gherkin/evaluation.feature:{line}" for line in (99, 100, 101, 102, 103, 105)]
    + [f"evaluator/gherkin/disabled.feature:{line}" for line in (18, 19, 20, 21, 22)]
    + [f"evaluator/gherkin/no-default-variant.feature:{line}" for line in (18, 19, 20, 21, 23)]
)

# JSON writes the number 0 as 0, whatever the flag is for.
WHOLE_NUMBER_FOR_A_FLOAT = frozenset(
    [f"gherkin/evaluation.feature:{line}" for line in (35, 50, 65)]
    + [f"evaluator/gherkin/zero-values.feature:{line}" for line in (27, 52, 73)]
)

BUCKETS_OF_2 = frozenset(
    [f"gherkin/targeting.feature:{line}" for line in (68, 69, 71, 72, 99, 134, 135, 136, 165, 166, 167)]
    + [f"evaluator/gherkin/fractional.feature:{line}" for line in (29, 30, 32, 33, 50, 71, 72, 73, 100, 101, 102)]
)


@dataclass(frozen=True)
class Defect:
    language: str
    mode: str
    fractional: tuple
    # Places of the suite, as gherkin/disabled.feature:21.
    places: frozenset
    reason: str


DEFECTS = [
    Defect(
        "python",
        "in-process",
        ("v2",),
        BUCKETS_OF_2,
        "flagd-core 2.0.0 hashes the CBOR of version 3, whatever the server serves",
    ),
    Defect(
        "python",
        "ofrep",
        ("v2", "v3"),
        CODE_DEFAULT_BY_OFREP,
        "openfeature-provider-ofrep 0.3.0 raises KeyError on an answer without `variant`",
    ),
    Defect(
        "python",
        "ofrep",
        ("v2", "v3"),
        WHOLE_NUMBER_FOR_A_FLOAT,
        "openfeature-provider-ofrep 0.3.0 takes 0 for no float: it tells 0 from 0.0, which JSON does not",
    ),
    Defect(
        "python",
        "rpc",
        ("v2", "v3"),
        frozenset(["evaluator/gherkin/metadata.feature:10"]),
        "openfeature-provider-flagd 0.6.1 never reads the metadata of an rpc answer",
    ),
    Defect(
        "node",
        "rpc",
        ("v2", "v3"),
        frozenset(["gherkin/rpc-caching.feature:44"]),
        "@openfeature/flagd-provider 0.16.1 empties its cache when its stream breaks: while stale it has nothing CACHED",
    ),
    Defect(
        "node",
        "ofrep",
        ("v2", "v3"),
        CODE_DEFAULT_BY_OFREP,
        "@openfeature/ofrep-provider 0.1.3 refuses an answer without `variant`: does not match the expected format",
    ),
]


def known(run, scenario) -> str | None:
    for defect in DEFECTS:
        if (
            defect.language == run.language
            and defect.mode == run.mode
            and run.fractional in defect.fractional
            and scenario.place in defect.places
        ):
            return defect.reason
    return None
