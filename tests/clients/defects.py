"""Scenarios that no right server passes with these clients, one row for each cause: who, which, why.

A listed scenario that passes fails the run: the client was mended, and its row has to go.
"""

from dataclasses import dataclass

# JSON writes the number 0 as 0, whatever the flag is for.
WHOLE_NUMBER_FOR_A_FLOAT = frozenset(
    [f"gherkin/evaluation.feature:{line}" for line in (35, 50, 65)]
    + [f"evaluator/gherkin/zero-values.feature:{line}" for line in (27, 52, 73)]
)

BUCKETS_OF_2 = frozenset(
    [f"gherkin/targeting.feature:{line}" for line in (68, 69, 71, 72, 99, 134, 135, 136, 165, 166, 167)]
    + [f"evaluator/gherkin/fractional.feature:{line}" for line in (29, 30, 32, 33, 50, 71, 72, 73, 100, 101, 102)]
)

DISABLED = frozenset(
    [f"gherkin/disabled.feature:{line}" for line in (19, 20, 21, 22, 23, 36)]
    + [f"evaluator/gherkin/disabled.feature:{line}" for line in range(18, 23)]
)
# Of boolean and object flags the zero value is what the suite takes for the code's default.
DISABLED_WITH_ANOTHER_DEFAULT = frozenset(
    [f"gherkin/disabled.feature:{line}" for line in (20, 21, 22)]
    + [f"evaluator/gherkin/disabled.feature:{line}" for line in (19, 20, 21)]
)
WITHOUT_DEFAULT = frozenset(
    [f"gherkin/evaluation.feature:{line}" for line in (99, 100, 101, 102, 103, 105)]
    + [f"evaluator/gherkin/no-default-variant.feature:{line}" for line in (18, 19, 20, 21, 23)]
)
SEM_VER_PADDED_OR_PREFIXED = frozenset(
    [f"gherkin/targeting.feature:{line}" for line in (312, 313, 314, *range(325, 332), 342, 344, 346, 356, 357)]
    + [f"evaluator/gherkin/semver.feature:{line}" for line in (57, 58, 59, *range(71, 78), 89, 91, 93, 104, 105)]
)
TEXT_OPERATOR_IN_ERROR = frozenset(
    [f"gherkin/targeting.feature:{line}" for line in (426, 427, 437, 438)]
    + [f"evaluator/gherkin/string.feature:{line}" for line in (34, 35, 46, 47)]
)
RULE_IN_ERROR = frozenset(
    [f"gherkin/targeting.feature:{line}" for line in (40, 389)] + ["evaluator/gherkin/evaluator-refs.feature:35"]
)

# An answer that leaves the value to the code's default has no variant (OFREP 0.3).
CODE_DEFAULT_BY_OFREP = DISABLED | WITHOUT_DEFAULT


@dataclass(frozen=True)
class Defect:
    language: str
    mode: str
    fractional: tuple
    # Places of the suite, as gherkin/disabled.feature:21.
    places: frozenset
    reason: str


# What a client makes up or leaves out whatever it is answered, so that nothing of the server is to be seen in it:
# open-feature-ofrep 0.1.2 says STATIC always, and no metadata.
UNHEARD = {"rust ofrep": {"reason", "metadata"}}

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
    Defect(
        "rust",
        "rpc",
        ("v2", "v3"),
        DISABLED_WITH_ANOTHER_DEFAULT | WITHOUT_DEFAULT,
        "open-feature-flagd 0.3.0 speaks version 1, in which a value cannot be absent: a zero, or NOT_FOUND",
    ),
    Defect(
        "rust",
        "rpc",
        ("v2", "v3"),
        frozenset(["gherkin/disabled.feature:36"]),
        "open-feature-flagd 0.3.0 sends no selector over rpc",
    ),
    Defect(
        "rust",
        "rpc",
        ("v2", "v3"),
        RULE_IN_ERROR | {"evaluator/gherkin/errors.feature:15"},
        "open-feature-flagd 0.3.0 makes DATA_LOSS a GENERAL and INVALID_ARGUMENT an INVALID_CONTEXT",
    ),
    Defect(
        "rust",
        "in-process",
        ("v3",),
        DISABLED | WITHOUT_DEFAULT,
        "open-feature-flagd 0.3.0 has an error where an application is to use its own default",
    ),
    Defect(
        "rust",
        "in-process",
        ("v3",),
        SEM_VER_PADDED_OR_PREFIXED | TEXT_OPERATOR_IN_ERROR,
        "flagd-evaluation-engine 0.1.0 reads whole versions only, and says false where an operator is to say null",
    ),
    Defect(
        "rust",
        "ofrep",
        ("v2", "v3"),
        RULE_IN_ERROR | {"gherkin/targeting.feature:390", "evaluator/gherkin/errors.feature:15"},
        "open-feature-ofrep 0.1.2 makes each answer 400 an INVALID_CONTEXT, and another type a PARSE_ERROR",
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
