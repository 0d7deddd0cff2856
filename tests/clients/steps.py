"""The suite's sentences, each read once into a value. `scenario.py` says what each of them does.

A sentence that no row of `GRAMMAR` reads is an error: a step that is not performed would let its scenario pass.
"""

import json
import re
from dataclasses import dataclass, field
from typing import Any


class UnknownStep(Exception):
    """The suite has a sentence that is not read here."""


@dataclass(frozen=True)
class Option:
    name: str
    value: Any


@dataclass(frozen=True)
class Provider:
    # stable, evaluator, unavailable, forbidden, metadata, syncpayload; ssl and socket are never selected.
    kind: str


@dataclass(frozen=True)
class Flag:
    type: str
    key: str
    default: Any


@dataclass(frozen=True)
class Attribute:
    path: tuple
    value: Any

    @property
    def nests(self) -> bool:
        """Whether it makes the context hold an object or a list."""
        return len(self.path) > 1 or isinstance(self.value, (dict, list))


@dataclass(frozen=True)
class Listen:
    event: str


@dataclass(frozen=True)
class Evaluate:
    pass


@dataclass(frozen=True)
class Lose:
    seconds: int


@dataclass(frozen=True)
class Modify:
    pass


@dataclass(frozen=True)
class Await:
    event: str
    seconds: float = 30.0


@dataclass(frozen=True)
class Never:
    event: str


@dataclass(frozen=True)
class InPayload:
    pass


@dataclass(frozen=True)
class Value:
    text: str


@dataclass(frozen=True)
class Detail:
    # reason, variant or error_code.
    name: str
    wanted: str


@dataclass(frozen=True)
class Metadata:
    wanted: dict = field(hash=False)


@dataclass(frozen=True)
class NoMetadata:
    pass


@dataclass(frozen=True)
class State:
    wanted: str


CONTROL = (Lose, Modify)


def cast(type_name: str, text: str) -> Any:
    """A cell's text as a value. Escapes as \\u00e9 stay six characters: the suite's buckets are those of the text."""
    match type_name:
        case "Integer":
            return int(float(text)) if re.search(r"[.eE]", text) else int(text)
        case "Float":
            return float(text)
        case "Boolean":
            return text.lower() == "true"
        case "Object":
            return json.loads(text.replace('\\"', '"'))
        case "String":
            return text
        case "CacheType":
            return text.lower()
        case "StringList":
            return text.split(",") if text else []
    raise UnknownStep(f"no type '{type_name}' is known")


def _metadata(table) -> Metadata:
    return Metadata({key: cast(type_name, value) for key, type_name, value in table[1:]})


GRAMMAR = [
    (r'an option "(.+?)" of type "(.+?)" with value "(.*)"', lambda m, _: Option(m[1], cast(m[2], m[3]))),
    (r"an evaluator", lambda m, _: Provider("evaluator")),
    (r"an? (\w+) flagd provider", lambda m, _: Provider(m[1])),
    (
        r'an? (\w+)-flag with key "(.*?)" and a (?:default|fallback) value "(.*)"',
        lambda m, _: Flag(m[1], m[2], cast(m[1], m[3])),
    ),
    (
        r'a context containing a key "(.*?)", with type "(\w+)" and with value "(.*)"',
        lambda m, _: Attribute((m[1],), cast(m[2], m[3])),
    ),
    (r'a context containing a targeting key with value "(.*)"', lambda m, _: Attribute(("targetingKey",), m[1])),
    (
        r'a context containing a nested property with outer key "(.*?)" and inner key "(.*?)", with value "(.*)"',
        lambda m, _: Attribute((m[1], m[2]), m[3]),
    ),
    (r"an? (\w+) event handler", lambda m, _: Listen(m[1])),
    (r"the flag was evaluated with details", lambda m, _: Evaluate()),
    (r"the connection is lost for (\d+)s", lambda m, _: Lose(int(m[1]))),
    (r"the flag was modified", lambda m, _: Modify()),
    (r"an? (\w+) event was fired", lambda m, _: Await(m[1])),
    (r"the (\w+) event handler should have been executed", lambda m, _: Await(m[1])),
    (
        r"the (\w+) event handler should have been executed within (\d+)ms",
        lambda m, _: Await(m[1], int(m[2]) / 1000),
    ),
    (r"the (\w+) event handler should not have been executed", lambda m, _: Never(m[1])),
    (r"the flag should be part of the event payload", lambda m, _: InPayload()),
    (r'the resolved details value should be "(.*)"', lambda m, _: Value(m[1])),
    (r'the reason should be "(.*)"', lambda m, _: Detail("reason", m[1])),
    (r'the variant should be "(.*)"', lambda m, _: Detail("variant", m[1])),
    (r'the error-code should be "(.*)"', lambda m, _: Detail("error_code", m[1])),
    (r"the resolved metadata is empty", lambda m, _: NoMetadata()),
    (r"the resolved metadata should contain", lambda m, table: _metadata(table)),
    (r"the client should be in (\w+) state", lambda m, _: State(m[1])),
]
GRAMMAR = [(re.compile(pattern, re.DOTALL), make) for pattern, make in GRAMMAR]


def read(text: str, table) -> Any:
    for pattern, make in GRAMMAR:
        if found := pattern.fullmatch(text):
            return make(found, table)
    raise UnknownStep(f"the suite says '{text}', and no row of GRAMMAR in steps.py reads it")
