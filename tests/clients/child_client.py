"""The official clients of another language, in one child process: a request a line of JSON, an answer a line, events as
they come. `node/runner.mjs` is the other end, and shows what a further language has to answer.
"""

import itertools
import json
import queue
import subprocess
import threading
from pathlib import Path
from typing import Any

import client
from client import Answer, ClientError, Event, Handle, Language, Target
import server
from server import HOST

ANSWER_SECONDS_MAX = 60


class Child(Language):
    def __init__(self, name: str, command: list, folder: Path):
        self.name = name
        self._process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf8"
        )
        self._numbers = itertools.count(1)
        self._waiting = {}
        self._lock = threading.Lock()
        self.events = {}
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, request: str, **fields: Any) -> Any:
        number = next(self._numbers)
        answer = queue.Queue(1)
        with self._lock:
            self._waiting[number] = answer
            self._process.stdin.write(json.dumps({"number": number, "request": request, **fields}) + "\n")
            self._process.stdin.flush()
        try:
            said = answer.get(timeout=ANSWER_SECONDS_MAX)
        except queue.Empty:
            raise ClientError(f"{self.name} did not answer '{request}' within {ANSWER_SECONDS_MAX} s") from None
        if "error" in said:
            raise ClientError(f"{self.name}: {said['error']}")
        return said["answer"]

    def open(self, target: Target, wait: bool = True) -> Handle:
        number = next(self._numbers)
        self.events[number] = queue.Queue()
        handle = ChildHandle(self, number)
        self.ask(
            "open",
            handle=number,
            mode=target.mode,
            host=HOST,
            port=target.port,
            options={
                "deadlineMs": client.DEADLINE_MS,
                "retryBackoffMs": client.RETRY_BACKOFF_MS,
                "retryBackoffMaxMs": client.RETRY_BACKOFF_MS,
                "retryGracePeriod": client.RETRY_GRACE_SECONDS,
                "streamDeadlineMs": 0,
                **target.options,
                **({"token": token} if (token := server.ofrep_tokens.get(target.port)) else {}),
            },
            readyMs=client.READY_SECONDS_MAX * 1000 if wait else 0,
        )
        return handle

    def end(self) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()

    def _read(self) -> None:
        for line in self._process.stdout:
            said = json.loads(line)
            if "event" in said:
                self.events[said["handle"]].put(Event(said["event"], tuple(said["flags"])))
            else:
                with self._lock:
                    waiting = self._waiting.pop(said["number"])
                waiting.put(said)
        with self._lock:
            for waiting in self._waiting.values():
                waiting.put({"error": "the process ended"})


class ChildHandle(Handle):
    def __init__(self, child: Child, number: int):
        self._child = child
        self._number = number

    def evaluate(self, type_name: str, key: str, default: Any, context: dict) -> Answer:
        return self.evaluate_each(type_name, key, default, [context])[0]

    def evaluate_each(self, type_name: str, key: str, default: Any, contexts: list) -> list:
        answers = self._child.ask(
            "evaluate", handle=self._number, type=type_name, key=key, default=default, contexts=contexts
        )
        return [Answer(**answer) for answer in answers]

    def listen(self, kind: str) -> None:
        self._child.ask("listen", handle=self._number, event=kind)

    def next_event(self, seconds: float) -> Event | None:
        try:
            return self._child.events[self._number].get(timeout=max(seconds, 0.001))
        except queue.Empty:
            return None

    def state(self) -> str:
        return self._child.ask("state", handle=self._number)

    def close(self) -> None:
        self._child.ask("close", handle=self._number)
