"""WaitExecution, CancelOperation, GetOperation; and that what is cancelled is dead.

Whether it is dead is seen by a heartbeat: the action appends to nothing that we could read, so that the check looks for
its unique command line in /proc. It is skipped where the server's processes are not on this machine.
"""
import os
import random
import time

import wire
from rules import NOT_FOUND, OK, Skip, check, completed, run, succeeded
from wire import grpc, ops, re

CANCELLED = grpc.StatusCode.CANCELLED


def executing(operation):
    metadata = re.ExecuteOperationMetadata()
    return operation.metadata.Unpack(metadata) and metadata.stage == re.ExecutionStage.EXECUTING


def begin(client, cmd, **action):
    """Starts an action; (stream, name, digest). The stream has given its first message."""
    digest = wire.prepare(client, cmd, **action)
    stream = client.start(digest, timeout=60)
    outcome = wire.collect(stream, until=lambda operation: True)
    assert outcome.operations, f"no first message: {outcome.code.name}"
    return stream, outcome.last.name, digest


def marker():
    """Seconds to sleep that no other process sleeps."""
    return f"{random.randrange(100_000, 900_000)}.{os.getpid()}{random.randrange(10**6)}"


def sleeping(seconds):
    """The processes that sleep so long, here."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as file:
                if file.read() == f"sleep\0{seconds}\0".encode():
                    found.append(int(entry))
        except OSError:
            pass
    return found


def until(condition, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def begin_marked(client, script="sleep {}"):
    seconds = marker()
    stream, name, digest = begin(client, wire.shell(script.format(seconds)))
    if not until(lambda: sleeping(seconds), 20):
        client.connection.close()
        raise Skip("the action's processes are not on this machine")
    return stream, name, digest, seconds


def gone(seconds, within):
    if until(lambda: not sleeping(seconds), within):
        return True
    for process in sleeping(seconds):  # Ours, by its unique command line: nothing may stay behind.
        os.kill(process, 9)
    return False


@check("wait-unknown", "MUST", "WaitExecution of an unknown name: NOT_FOUND, so that the client executes again")
def _(client):
    outcome = client.wait("operations/no-such-operation")
    assert outcome.code == NOT_FOUND, outcome.code


@check("wait-running", "MUST", "WaitExecution answers at once with the state, then to the end")
def _(client):
    stream, name, _digest = begin(client, wire.shell("sleep 1; echo waited"))
    outcome = completed(client.wait(name))
    assert outcome.last.name == name
    stream.cancel()


@check("wait-after-broken-stream", "MUST", "an operation outlives the stream that began it")
def _(client):
    stream, name, _digest = begin(client, wire.shell("sleep 2; echo done > out", outputs=["out"]))
    stream.cancel()
    result = succeeded(client, completed(client.wait(name)))
    assert [file.path for file in result.output_files] == ["out"]


@check("wait-after-completion", "OURS", "a name stays known for some time after the end")
def _(client):
    outcome = run(client, wire.shell("true"))
    again = completed(client.wait(outcome.last.name))
    assert again.last.done


@check("wait-metadata", "MUST", "WaitExecution's messages have metadata as Execute's have")
def _(client):
    stream, name, digest = begin(client, wire.shell("sleep 1"))
    outcome = completed(client.wait(name))
    assert all(entry is not None and entry.action_digest.hash == digest.hash for entry in outcome.metadata())
    stream.cancel()


@check("execute-again-while-running", "MUST", "a second Execute of a running action ends with its result")
def _(client):
    cmd = wire.shell("cat /proc/sys/kernel/random/uuid > out; sleep 1", outputs=["out"])
    stream, _name, digest = begin(client, cmd)
    second = completed(client.execute(digest))
    first = completed(wire.collect(stream))
    assert first.result.exit_code == second.result.exit_code == 0


@check("cancel-ends-stream", "OURS", "CancelOperation: the stream ends with CANCELLED")
def _(client):
    stream, name, _digest = begin(client, wire.shell("sleep 300"))
    client.cancel(name)
    code = wire.collect(stream).final_code()
    assert code == CANCELLED, code


@check("cancel-kills", "OURS", "CancelOperation: no process of the action is left")
def _(client):
    stream, name, _digest, seconds = begin_marked(client)
    client.cancel(name)
    wire.collect(stream)
    assert gone(seconds, 10), "the action is still alive after 10 s"


@check("cancel-kills-stubborn", "OURS", "also one that ignores SIGTERM and has left its session")
def _(client):
    script = "trap '' TERM INT HUP; setsid sleep {} & wait; while :; do sleep 1; done"
    stream, name, _digest, seconds = begin_marked(client, script)
    client.cancel(name)
    wire.collect(stream)
    assert gone(seconds, 20), "a process of the action is still alive after 20 s"


@check("cancel-unknown", "OURS", "CancelOperation of an unknown name: NOT_FOUND")
def _(client):
    code, _answer = wire.code_of(lambda: client.cancel("operations/no-such-operation"))
    assert code == NOT_FOUND, code


@check("cancel-done", "OURS", "CancelOperation of what is done changes nothing")
def _(client):
    outcome = run(client, wire.shell("true"))
    code, _answer = wire.code_of(lambda: client.cancel(outcome.last.name))
    assert code in (OK, NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION), code


@check("cancel-one-of-two", "OURS", "cancelling one of two merged operations does not end the other")
def _(client):
    cmd = wire.shell("sleep 3; echo done > out", outputs=["out"])
    first, name, digest = begin(client, cmd)
    second = client.start(digest, timeout=60)
    other = wire.collect(second, until=lambda operation: True).last.name
    if other == name:
        first.cancel(), second.cancel()
        raise Skip("merged operations share one name here")
    client.cancel(name)
    rest = wire.collect(second)
    assert completed(rest).result.exit_code == 0
    first.cancel()


@check("cancel-not-cached", "MUST", "a cancelled action has no result in the cache")
def _(client):
    stream, name, digest = begin(client, wire.shell("sleep 300"))
    client.cancel(name)
    wire.collect(stream)
    code, _answer = wire.code_of(lambda: client.cached(digest))
    assert code == NOT_FOUND, code


@check("get-operation", "OURS", "GetOperation tells the state of a running and of a finished operation")
def _(client):
    stream, name, _digest = begin(client, wire.shell("sleep 1"))
    request = ops.GetOperationRequest(name=name)
    assert not client.operations.GetOperation(request, timeout=10).done
    completed(wire.collect(stream))
    assert client.operations.GetOperation(request, timeout=10).done


@check("timeout-kills", "OURS", "after a timeout no process of the action is left, also none in the background")
def _(client):
    seconds = marker()
    cmd = wire.shell(f"setsid sleep {seconds} & sleep {seconds}")
    outcome = client.execute(wire.prepare(client, cmd, timeout=wire.seconds(2)))
    assert outcome.final_code() == grpc.StatusCode.DEADLINE_EXCEEDED, outcome.final_code()
    assert gone(seconds, 10), "a process is still alive 10 s after the timeout"


@check("end-kills-background", "OURS", "when the command has ended, no process of it is left")
def _(client):
    seconds = marker()
    run(client, wire.shell(f"setsid sleep {seconds} & sleep 0.2; true"))
    assert gone(seconds, 10), "a background process is still alive 10 s after the end"
