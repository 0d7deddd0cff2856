"""What came of it: outcomes and exposures to a featureops node, in batches that may be sent again.

A batch is named by (producer, sequence) and counts once however often it arrives, so a call that failed is simply
repeated: its fate is unknown, and repeating it is safe. The messages are read from the `.proto` files at run time.
"""

import sys
import time
import uuid

import grpc

BATCH_EVENTS_MAX = 4_096
ATTEMPTS = 5
CALL_SECONDS_MAX = 10
WORTH_REPEATING = {
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.ABORTED,
}


class Facts:
    def __init__(self, address: str, proto: str, environment: str = "production"):
        sys.path.append(proto)
        self._messages, services = grpc.protos_and_services("featureops/v1/facts.proto")
        self._channel = grpc.insecure_channel(address)
        self._stub = services.FactServiceStub(self._channel)
        self._environment = environment
        # A name of this process alone: two that share one would take each other's numbers.
        self._producer = f"shop-{uuid.uuid4()}"
        self._sequence = 0

    def outcomes(self, events: list) -> int:
        """Reports dicts of `metric`, `unit`, `receipt` and `value`; how many were counted at once."""
        make, call = self._messages.ReportOutcomesRequest, self._stub.ReportOutcomes
        return self._report(make, call, "outcomes", [self._messages.Outcome(**event) for event in events])

    def exposures(self, events: list) -> int:
        """Reports dicts of `experiment`, `unit` and `variant`; only clients that evaluate by themselves need to."""
        make, call = self._messages.ReportExposuresRequest, self._stub.ReportExposures
        return self._report(make, call, "exposures", [self._messages.Exposure(**event) for event in events])

    def close(self) -> None:
        self._channel.close()

    def _report(self, make, call, field: str, events: list) -> int:
        counted = 0
        for start in range(0, len(events), BATCH_EVENTS_MAX):
            self._sequence += 1
            batch = make(environment=self._environment, producer=self._producer, sequence=self._sequence)
            getattr(batch, field).extend(events[start : start + BATCH_EVENTS_MAX])
            answer = self._send(call, batch)
            counted += answer.counted
            for verdict in answer.verdicts:
                print(f"event {verdict.index}: {self._messages.Verdict.Name(verdict.verdict)} {verdict.detail}")
        return counted

    def _send(self, call, batch):
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return call(batch, timeout=CALL_SECONDS_MAX)
            except grpc.RpcError as error:
                if attempt == ATTEMPTS or error.code() not in WORTH_REPEATING:
                    raise
                time.sleep(0.1 * 2**attempt)
        raise AssertionError("unreachable")
