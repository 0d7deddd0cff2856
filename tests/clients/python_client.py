"""The official Python clients: openfeature-provider-flagd (rpc, in-process) and openfeature-provider-ofrep."""

import itertools
import logging
import queue
import time
from typing import Any

from openfeature import api
from openfeature.contrib.provider.flagd import FlagdProvider
from openfeature.contrib.provider.flagd.config import CacheType, ResolverType
from openfeature.contrib.provider.ofrep import OFREPProvider
from openfeature.evaluation_context import EvaluationContext
from openfeature.event import ProviderEvent
from openfeature.provider import ProviderStatus

import client
from client import Answer, ClientError, Event, Handle, Language, Target
import server
from server import HOST

METHODS = {
    "Boolean": "get_boolean_details",
    "String": "get_string_details",
    "Integer": "get_integer_details",
    "Float": "get_float_details",
    "Object": "get_object_details",
}
EVENTS = {
    "ready": ProviderEvent.PROVIDER_READY,
    "error": ProviderEvent.PROVIDER_ERROR,
    "stale": ProviderEvent.PROVIDER_STALE,
    "change": ProviderEvent.PROVIDER_CONFIGURATION_CHANGED,
}


class Python(Language):
    name = "python"

    def __init__(self):
        # The providers log every lost connection; the scenarios lose many.
        logging.disable(logging.CRITICAL)
        self._domains = itertools.count()

    def open(self, target: Target, wait: bool = True) -> Handle:
        domain = f"domain-{next(self._domains)}"
        provider = _provider(target)
        api.set_provider(provider, domain)
        handle = PythonHandle(provider, api.get_client(domain))
        if wait:
            end = time.monotonic() + client.READY_SECONDS_MAX
            while handle.state() != "ready":
                if time.monotonic() > end:
                    state = handle.state()
                    handle.close()
                    raise ClientError(f"python {target.mode}: {state} after {client.READY_SECONDS_MAX} s, not ready")
                time.sleep(0.01)
        return handle


def _provider(target: Target):
    options = target.options
    if target.mode == "ofrep":
        headers = {"Flagd-Selector": options["selector"]} if options.get("selector") else {}
        if token := server.ofrep_tokens.get(target.port):
            headers["Authorization"] = f"Bearer {token}"
        return OFREPProvider(f"http://{HOST}:{target.port}", headers_factory=lambda: headers)
    return FlagdProvider(
        host=HOST,
        port=target.port,
        resolver_type=ResolverType.RPC if target.mode == "rpc" else ResolverType.IN_PROCESS,
        deadline_ms=options.get("deadlineMs", client.DEADLINE_MS),
        stream_deadline_ms=0,
        retry_backoff_ms=client.RETRY_BACKOFF_MS,
        retry_backoff_max_ms=client.RETRY_BACKOFF_MS,
        retry_grace_period=client.RETRY_GRACE_SECONDS,
        selector=options.get("selector"),
        cache=CacheType(options["cache"]) if "cache" in options else None,
        fatal_status_codes=options.get("fatalStatusCodes"),
    )


class PythonHandle(Handle):
    def __init__(self, provider, of):
        self._provider = provider
        self._client = of
        self._events = queue.Queue()
        self._handlers = []

    def evaluate(self, type_name: str, key: str, default: Any, context: dict) -> Answer:
        attributes = {name: value for name, value in context.items() if name != "targetingKey"}
        given = EvaluationContext(context.get("targetingKey"), attributes)
        details = getattr(self._client, METHODS[type_name])(key, default, given)
        return Answer(
            value=details.value,
            reason=_text(details.reason),
            variant=details.variant,
            error_code=_text(details.error_code),
            error_message=details.error_message or "",
            metadata=dict(details.flag_metadata or {}),
        )

    def listen(self, kind: str) -> None:
        def handler(details) -> None:
            self._events.put(Event(kind, tuple(details.flags_changed or ())))

        self._client.add_handler(EVENTS[kind], handler)
        self._handlers.append((EVENTS[kind], handler))

    def next_event(self, seconds: float) -> Event | None:
        try:
            return self._events.get(timeout=max(seconds, 0.001))
        except queue.Empty:
            return None

    def state(self) -> str:
        status = self._client.get_provider_status()
        return {ProviderStatus.NOT_READY: "not_ready"}.get(status, status.value.lower())

    def close(self) -> None:
        for event, handler in self._handlers:
            self._client.remove_handler(event, handler)
        if hasattr(self._provider, "shutdown"):
            self._provider.shutdown()


def _text(word) -> str:
    return str(getattr(word, "value", word) or "")
