"""Stands before a server that speaks REAPI 2.1 and later only, so that a client of 2.0 can build on it.

oldface.py PORT SERVER: forwards every call. GetCapabilities says that 2.0 is spoken too; a Command with the older output
fields is given `output_paths`, under an action digest of its own, and results get the older symlink fields. It is there
to try bazel.sh out on buildbox-casd; our server needs none of this.
"""
import concurrent.futures
import os
import signal
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "conformance"))

import wire
from wire import grpc, pack, re

PREFIX = "/build.bazel.remote.execution.v2."
OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


def plain(data):
    return data


def remaining(context):
    """Seconds of the caller's deadline; None where it set none, which grpcio tells as an immense number."""
    left = context.time_remaining()
    return left if left is not None and left < 1e6 else None


class Face(grpc.GenericRpcHandler):
    def __init__(self, server):
        self.upstream = grpc.insecure_channel(server, options=OPTIONS)
        self.client = wire.Client(self.upstream)
        self.renewed, self.lock = {}, threading.Lock()

    def service(self, details):
        method = details.method
        special = {
            PREFIX + "Capabilities/GetCapabilities": self.capabilities,
            PREFIX + "ActionCache/GetActionResult": self.get_result,
            PREFIX + "ActionCache/UpdateActionResult": self.update_result,
        }
        if method in special:
            return grpc.unary_unary_rpc_method_handler(special[method], plain, plain)
        if method == PREFIX + "Execution/Execute":
            return grpc.unary_stream_rpc_method_handler(self.execute, plain, plain)
        if method == PREFIX + "Execution/WaitExecution":
            return grpc.unary_stream_rpc_method_handler(self.wait, plain, plain)
        return self.forwarded(method)

    def forwarded(self, method):
        """The other methods as they are, every one as if it streamed both ways."""

        def forward(requests, context):
            call = self.upstream.stream_stream(method, plain, plain)(requests, timeout=remaining(context))
            yield from self.passed_on(call, context)

        return grpc.stream_stream_rpc_method_handler(forward, plain, plain)

    def passed_on(self, call, context):
        context.add_callback(call.cancel)
        try:
            yield from call
        except grpc.RpcError as error:
            self.fail(context, error)

    def fail(self, context, error):
        context.set_trailing_metadata(
            [entry for entry in error.trailing_metadata() or () if entry[0] == "grpc-status-details-bin"]
        )
        context.abort(error.code(), error.details())

    def unary(self, context, call):
        try:
            return call()
        except grpc.RpcError as error:
            self.fail(context, error)

    def capabilities(self, _, context):
        answer = self.unary(context, self.client.capabilities)
        answer.low_api_version.major, answer.low_api_version.minor = 2, 0
        return pack(answer)

    def renew(self, old):
        """The digest of the same action with output_paths; the old one where there is nothing to change."""
        with self.lock:
            if old.hash in self.renewed:
                return self.renewed[old.hash]
        try:
            action = re.Action.FromString(self.client.get(old))
            command = re.Command.FromString(self.client.get(action.command_digest))
        except grpc.RpcError:
            return old  # Not there yet; the server will say so.
        if command.output_paths or not (command.output_files or command.output_directories):
            return old
        command.output_paths.extend(sorted({*command.output_files, *command.output_directories}))
        del command.output_files[:], command.output_directories[:]
        action.command_digest.CopyFrom(wire.digest(pack(command)))
        self.client.put(pack(command), pack(action))
        with self.lock:
            return self.renewed.setdefault(old.hash, wire.digest(pack(action)))

    @staticmethod
    def aged(result):
        """Links are told in the older fields too. Which kind is not known here: Bazel treats both alike."""
        for link in result.output_symlinks:
            result.output_file_symlinks.add(path=link.path, target=link.target)
        return result

    def get_result(self, data, context):
        request = re.GetActionResultRequest.FromString(data)
        request.action_digest.CopyFrom(self.renew(request.action_digest))
        return pack(self.aged(self.unary(context, lambda: self.client.cache.GetActionResult(request))))

    def update_result(self, data, context):
        request = re.UpdateActionResultRequest.FromString(data)
        request.action_digest.CopyFrom(self.renew(request.action_digest))
        return pack(self.unary(context, lambda: self.client.cache.UpdateActionResult(request)))

    def execute(self, data, context):
        request = re.ExecuteRequest.FromString(data)
        request.action_digest.CopyFrom(self.renew(request.action_digest))
        call = self.client.execution.Execute(request, timeout=remaining(context))
        yield from self.operations(call, context)

    def wait(self, data, context):
        request = re.WaitExecutionRequest.FromString(data)
        yield from self.operations(self.client.execution.WaitExecution(request), context)

    def operations(self, call, context):
        for operation in self.passed_on(call, context):
            response = re.ExecuteResponse()
            if operation.done and operation.response.Unpack(response):
                self.aged(response.result)
                operation.response.Pack(response)
            yield pack(operation)


def main():
    pool = concurrent.futures.ThreadPoolExecutor(max_workers=200)
    server = grpc.server(pool, handlers=[Face(sys.argv[2])], options=OPTIONS)
    server.add_insecure_port(f"127.0.0.1:{sys.argv[1]}")
    server.start()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    server.wait_for_termination()


main()
