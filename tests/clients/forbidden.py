"""A server that refuses every call: PERMISSION_DENIED is what the suite's forbidden provider must meet."""

from concurrent.futures import ThreadPoolExecutor

import grpc

from server import HOST


class Forbidden(grpc.GenericRpcHandler):
    def __init__(self):
        self._server = grpc.server(ThreadPoolExecutor(4), handlers=[self])
        self.port = self._server.add_insecure_port(f"{HOST}:0")
        self._server.start()

    def service(self, _call):
        def refuse(_request, context):
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "nobody may")
            # A stream's handler is a generator, and needs a yield to be one.
            yield b""

        return grpc.unary_stream_rpc_method_handler(refuse)

    def end(self) -> None:
        self._server.stop(0)
