"""What a run asks of an official client, whatever its language: open, listen, evaluate, close.

`python_client.py` is one in this process, `child_client.py` one in a child process of another
language. Neither knows a scenario.
"""

import abc
from dataclasses import dataclass, field
from typing import Any

# Time for one unary call, and how a client takes the loss of its server: shorter than the clients' defaults. The suite
# loses its server for 1 s, where no client may give up, and for 6 s and 8 s, where every client must. Node tries again
# after a second, and once more a good second later: a grace of 2 s is too short for it.
DEADLINE_MS = 2_000
RETRY_BACKOFF_MS = 1_000
RETRY_GRACE_SECONDS = 4
READY_SECONDS_MAX = 10


class ClientError(Exception):
    """A client did not become ready, or broke."""


@dataclass(frozen=True)
class Answer:
    value: Any
    reason: str
    variant: str | None
    error_code: str
    error_message: str
    metadata: dict


@dataclass(frozen=True)
class Event:
    # ready, error, stale or change.
    kind: str
    flags: tuple = ()


@dataclass(frozen=True)
class Target:
    """Where a provider connects, and how: mode is rpc, in-process or ofrep; options as the suite names them."""

    mode: str
    port: int
    options: dict = field(default_factory=dict)


class Handle(abc.ABC):
    """One provider and its client."""

    @abc.abstractmethod
    def evaluate(self, type_name: str, key: str, default: Any, context: dict) -> Answer: ...

    def evaluate_each(self, type_name: str, key: str, default: Any, contexts: list) -> list:
        return [self.evaluate(type_name, key, default, context) for context in contexts]

    @abc.abstractmethod
    def listen(self, kind: str) -> None: ...

    @abc.abstractmethod
    def next_event(self, seconds: float) -> Event | None:
        """The oldest event not yet taken, of the kinds listened to."""

    @abc.abstractmethod
    def state(self) -> str:
        """ready, stale, error, fatal or not_ready."""

    @abc.abstractmethod
    def close(self) -> None: ...


class Language(abc.ABC):
    name: str

    @abc.abstractmethod
    def open(self, target: Target, wait: bool = True) -> Handle:
        """With `wait`, ready or an error."""

    def end(self) -> None: ...
