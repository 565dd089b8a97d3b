"""A small REAPI client: what a check needs to say in one line. No retries: a check wants to see every answer."""
import contextlib
import hashlib
import itertools
import uuid

import stubs  # noqa: F401  (first: it puts the generated modules on sys.path)
import grpc
from build.bazel.remote.execution.v2 import remote_execution_pb2 as re
from build.bazel.remote.execution.v2 import remote_execution_pb2_grpc as re_grpc
from google.bytestream import bytestream_pb2 as bs
from google.bytestream import bytestream_pb2_grpc as bs_grpc
from google.longrunning import operations_pb2 as ops
from google.longrunning import operations_pb2_grpc as ops_grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2 as details
from google.rpc import status_pb2

CODES = {code.value[0]: code for code in grpc.StatusCode}
EMPTY = b""


def channel(address):
    options = [("grpc.max_receive_message_length", 64 << 20), ("grpc.enable_retries", 0)]
    return grpc.insecure_channel(address, options=options)


def digest(blob):
    return re.Digest(hash=hashlib.sha256(blob).hexdigest(), size_bytes=len(blob))


def pack(message):
    """Bytes of a message in the order of its tags, which is the canonical form here."""
    return message.SerializeToString(deterministic=True)


def code_of(call):
    """(code, error) of a call; (OK, answer) if it went well."""
    try:
        return grpc.StatusCode.OK, call()
    except grpc.RpcError as error:
        return error.code(), error


def status_details(error):
    """The google.rpc.Status that goes with a gRPC error, or None."""
    for key, value in error.trailing_metadata() or ():
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value)
    return None


def missing_subjects(status):
    """The subjects of a PreconditionFailure whose violations are all MISSING; None where it says something else."""
    if status is None:
        return None
    subjects = []
    for detail in status.details:
        failure = details.PreconditionFailure()
        if not detail.Unpack(failure):
            continue
        for violation in failure.violations:
            if violation.type != "MISSING":
                return None
            subjects.append(violation.subject)
    return subjects or None


def blob_name(wanted, instance=""):
    prefix = f"{instance}/" if instance else ""
    return f"{prefix}blobs/{wanted.hash}/{wanted.size_bytes}"


class Outcome:
    """All that an Execute or WaitExecution stream said."""

    def __init__(self):
        self.operations, self.code, self.error = [], grpc.StatusCode.OK, None

    @property
    def last(self):
        return self.operations[-1] if self.operations else None

    def metadata(self):
        found = []
        for operation in self.operations:
            metadata = re.ExecuteOperationMetadata()
            found.append(metadata if operation.metadata.Unpack(metadata) else None)
        return found

    def stages(self):
        return [entry.stage for entry in self.metadata() if entry is not None]

    @property
    def response(self):
        response = re.ExecuteResponse()
        if self.last is None or not self.last.done or not self.last.response.Unpack(response):
            return None
        return response

    @property
    def result(self):
        return self.response.result if self.response is not None else None

    def final_code(self):
        """Of the call, or of the response: where an action's error may stand."""
        if self.code != grpc.StatusCode.OK:
            return self.code
        if self.response is None:
            return None
        return CODES[self.response.status.code]

    def final_status(self):
        if self.code != grpc.StatusCode.OK:
            return status_details(self.error)
        return self.response.status if self.response is not None else None


class Client:
    def __init__(self, connection, instance="", timeout=30):
        self.connection, self.instance, self.timeout = connection, instance, timeout
        self.cas = re_grpc.ContentAddressableStorageStub(connection)
        self.cache = re_grpc.ActionCacheStub(connection)
        self.execution = re_grpc.ExecutionStub(connection)
        self.stream = bs_grpc.ByteStreamStub(connection)
        self.operations = ops_grpc.OperationsStub(connection)
        self._capabilities = re_grpc.CapabilitiesStub(connection)

    def capabilities(self, **options):
        options.setdefault("timeout", self.timeout)
        return self._capabilities.GetCapabilities(
            re.GetCapabilitiesRequest(instance_name=self.instance), **options
        )

    def missing(self, *digests):
        request = re.FindMissingBlobsRequest(instance_name=self.instance, blob_digests=digests)
        return list(self.cas.FindMissingBlobs(request, timeout=self.timeout).missing_blob_digests)

    def update(self, *pairs):
        """BatchUpdateBlobs of (digest, bytes); the responses."""
        requests = [re.BatchUpdateBlobsRequest.Request(digest=wanted, data=data) for wanted, data in pairs]
        request = re.BatchUpdateBlobsRequest(instance_name=self.instance, requests=requests)
        return self.cas.BatchUpdateBlobs(request, timeout=self.timeout).responses

    def put(self, *blobs):
        """Uploads; the digest of the last one."""
        for response in self.update(*[(digest(blob), blob) for blob in blobs]):
            assert response.status.code == 0, f"upload of {response.digest.hash}: {response.status.message}"
        return digest(blobs[-1])

    def read_batch(self, *digests, **more):
        request = re.BatchReadBlobsRequest(instance_name=self.instance, digests=digests, **more)
        return self.cas.BatchReadBlobs(request, timeout=self.timeout).responses

    def get(self, wanted):
        return b"" if wanted.size_bytes == 0 else self.read(blob_name(wanted, self.instance))

    def read(self, name, offset=0, limit=0, metadata=None):
        request = bs.ReadRequest(resource_name=name, read_offset=offset, read_limit=limit)
        answers = self.stream.Read(request, timeout=self.timeout, metadata=metadata)
        return b"".join(answer.data for answer in answers)

    def write(self, name, data, chunk=1 << 20, finish=True, offset=0, metadata=None):
        """ByteStream.Write; the committed size."""
        starts = range(0, max(len(data), 1), chunk)
        requests = [
            bs.WriteRequest(
                resource_name=name if start == 0 else "",
                write_offset=offset + start,
                data=data[start : start + chunk],
                finish_write=finish and start + chunk >= len(data),
            )
            for start in starts
        ]
        answer = self.stream.Write(iter(requests), timeout=self.timeout, metadata=metadata)
        return answer.committed_size

    def upload_name(self, wanted, kind="blobs", tail=""):
        prefix = f"{self.instance}/" if self.instance else ""
        return f"{prefix}uploads/{uuid.uuid4()}/{kind}/{wanted.hash}/{wanted.size_bytes}{tail}"

    def cached(self, action_digest, **more):
        request = re.GetActionResultRequest(instance_name=self.instance, action_digest=action_digest, **more)
        return self.cache.GetActionResult(request, timeout=self.timeout)

    def store_result(self, action_digest, result):
        request = re.UpdateActionResultRequest(
            instance_name=self.instance, action_digest=action_digest, action_result=result
        )
        return self.cache.UpdateActionResult(request, timeout=self.timeout)

    def tree(self, root, **more):
        request = re.GetTreeRequest(instance_name=self.instance, root_digest=root, **more)
        return list(self.cas.GetTree(request, timeout=self.timeout))

    def start(self, action_digest, timeout=None, **more):
        request = re.ExecuteRequest(instance_name=self.instance, action_digest=action_digest, **more)
        return self.execution.Execute(request, timeout=timeout or self.timeout)

    def execute(self, action_digest, **more):
        return collect(self.start(action_digest, **more))

    def wait(self, name, timeout=None):
        request = re.WaitExecutionRequest(name=name)
        return collect(self.execution.WaitExecution(request, timeout=timeout or self.timeout))

    def cancel(self, name):
        return self.operations.CancelOperation(ops.CancelOperationRequest(name=name), timeout=self.timeout)


def collect(stream, until=None):
    """Reads a stream of operations to its end, or until one of them satisfies a condition."""
    outcome = Outcome()
    try:
        for operation in stream:
            outcome.operations.append(operation)
            if until is not None and until(operation):
                break
    except grpc.RpcError as error:
        outcome.code, outcome.error = error.code(), error
    return outcome


_serial = itertools.count()


def unique():
    """Bytes that nobody has uploaded yet."""
    return f"{uuid.uuid4()} {next(_serial)}".encode()


def directory(files=(), directories=(), symlinks=(), sort=True):
    """A Directory message of (name, digest[, executable]), (name, digest) and (name, target)."""
    order = (lambda entries: sorted(entries, key=lambda entry: entry[0].encode())) if sort else list
    message = re.Directory()
    for name, wanted, *executable in order(files):
        message.files.add(name=name, digest=wanted, is_executable=bool(executable and executable[0]))
    for name, wanted in order(directories):
        message.directories.add(name=name, digest=wanted)
    for name, target in order(symlinks):
        message.symlinks.add(name=name, target=target)
    return message


def command(*arguments, outputs=(), env=(), old_files=(), old_directories=(), **more):
    message = re.Command(
        arguments=arguments,
        output_paths=sorted(outputs),
        output_files=sorted(old_files),
        output_directories=sorted(old_directories),
        **more,
    )
    for name, value in sorted(dict(env).items()):
        message.environment_variables.add(name=name, value=value)
    return message


def shell(script, outputs=(), env=(), **more):
    """A command for /bin/sh, distinct from all others, so that no cache or earlier run answers for it."""
    env = {"PATH": "/usr/bin:/bin", **dict(env)}
    return command("/bin/sh", "-c", f"{script}\n: {uuid.uuid4()}", outputs=outputs, env=env, **more)


def seconds(count):
    return duration_pb2.Duration(seconds=int(count), nanos=int((count - int(count)) * 1e9))


def prepare(client, cmd, root=None, blobs=(), **action):
    """Uploads a command, a root directory and an action; the action's digest."""
    root_bytes = pack(root if root is not None else re.Directory())
    command_bytes = pack(cmd)
    message = re.Action(
        command_digest=digest(command_bytes), input_root_digest=digest(root_bytes), **action
    )
    action_bytes = pack(message)
    client.put(*[blob for blob in (*blobs, command_bytes, root_bytes, action_bytes) if blob])
    return digest(action_bytes)


@contextlib.contextmanager
def cancelled(stream):
    """Ends a stream whatever happens."""
    try:
        yield stream
    finally:
        stream.cancel()
