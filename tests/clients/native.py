"""The node's own API over gRPC, made from proto/ at run time: no generated code is kept."""

import sys

import grpc

from installation import ROOT
from server import HOST, Server

sys.path.append(str(ROOT / "proto"))
CALL_SECONDS_MAX = 30

_MESSAGES = {}


def _service(name: str):
    """(messages, stubs) of proto/featureops/v1/NAME.proto."""
    if name not in _MESSAGES:
        _MESSAGES[name] = grpc.protos_and_services(f"featureops/v1/{name}.proto")
    return _MESSAGES[name]


class Native:
    def __init__(self, server: Server):
        self._channel = grpc.insecure_channel(f"{HOST}:{server.ports['native']}")
        self._shown = [("authorization", f"Bearer {server.token}")] if server.token else None

    def evaluate_each(self, environment: str, flag: str, contexts: list) -> list:
        """Messages EvaluateResponse, in the order of the contexts. They imply no exposure."""
        messages, services = _service("evaluation")

        def requests():
            for context in contexts:
                request = messages.EvaluateRequest(
                    environment=f"environments/{environment}", flag=flag, no_exposure=True
                )
                request.context.update(context)
                yield request

        stub = services.EvaluationServiceStub(self._channel)
        return list(stub.EvaluateStream(requests(), timeout=CALL_SECONDS_MAX, metadata=self._shown))

    def status(self, environment: str, experiment: str):
        messages, services = _service("experiment")
        name = f"environments/{environment}/experiments/{experiment}"
        stub = services.ExperimentServiceStub(self._channel)
        return stub.GetExperimentStatus(messages.GetExperimentStatusRequest(name=name), timeout=CALL_SECONDS_MAX, metadata=self._shown)

    def close(self) -> None:
        self._channel.close()
