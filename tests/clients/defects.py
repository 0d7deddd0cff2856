"""Scenarios that no right server passes with these clients, one row for each cause: who, which, why.

A listed scenario that passes fails the run: the client was mended, and its row has to go.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Defect:
    language: str
    mode: str
    fractional: tuple
    # Places of the suite, as gherkin/disabled.feature:21.
    places: frozenset
    reason: str


DEFECTS = []


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
