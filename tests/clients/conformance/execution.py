"""Execute: what it says, what it caches, what it refuses, how it ends."""
import concurrent.futures
import time

import wire
from rules import (
    INVALID, NOT_FOUND, OK, PRECONDITION, check, completed, files_of, rejected, run, stderr, stdout, succeeded,
)
from wire import grpc, pack, re

DEADLINE = grpc.StatusCode.DEADLINE_EXCEEDED
COMPLETED = re.ExecutionStage.COMPLETED


@check("execute-output-streams", "MUST", "exit code, stdout and stderr of a command come back")
def _(client):
    result = succeeded(client, run(client, wire.shell("echo out; echo err >&2")))
    assert (stdout(client, result), stderr(client, result)) == (b"out\n", b"err\n")


@check("execute-empty-streams-unset", "OURS", "a command that prints nothing has no stdout digest, or the empty one")
def _(client):
    result = succeeded(client, run(client, wire.shell("true")))
    for digest in (result.stdout_digest, result.stderr_digest):
        assert digest.size_bytes == 0 and digest.hash in ("", wire.digest(b"").hash), digest


@check("execute-nonzero-exit-is-no-error", "MUST", "a failing command: status OK, its exit code, its output")
def _(client):
    result = run(client, wire.shell("echo said >&2; exit 7")).result
    assert result.exit_code == 7, result.exit_code
    assert stderr(client, result) == b"said\n"


@check("execute-failure-keeps-outputs", "MUST", "a failing command's outputs are returned")
def _(client):
    result = run(client, wire.shell("echo made > out; exit 3", outputs=["out"])).result
    assert result.exit_code == 3 and files_of(client, result) == {"out": b"made\n"}


@check("execute-killed-by-signal", "OURS", "a command killed by a signal has an exit code other than 0, as shells say")
def _(client):
    result = run(client, wire.command("/bin/sh", "-c", f"kill -SEGV $$; : {wire.unique()}")).result
    assert result.exit_code == 128 + 11, result.exit_code


@check("execute-signal-from-child", "OURS", "the command is not PID 1, whose own signals do nothing")
def _(client):
    result = run(client, wire.shell("sh -c 'kill -TERM $PPID; sleep 5'; echo survived; exit 0")).result
    assert result.exit_code != 0 and b"survived" not in stdout(client, result)


@check("execute-operation-names", "MUST", "the operation has a name, the same in all its messages")
def _(client):
    outcome = run(client, wire.shell("true"))
    names = {operation.name for operation in outcome.operations}
    assert len(names) == 1 and names != {""}, names


@check("execute-operation-error-unset", "MUST", "Operation.error is never set")
def _(client):
    for script in ("true", "exit 1"):
        assert not any(entry.HasField("error") for entry in run(client, wire.shell(script)).operations)
    lost = client.execute(wire.digest(wire.unique()))
    assert not any(entry.HasField("error") for entry in lost.operations)


@check("execute-metadata-always", "MUST", "every message has ExecuteOperationMetadata with a stage and the action's digest")
def _(client):
    action = wire.prepare(client, wire.shell("true"))
    for entry in completed(client.execute(action)).metadata():
        assert entry is not None and entry.stage != 0, entry
        assert entry.action_digest.hash == action.hash, entry


@check("execute-done-iff-completed", "MUST", "done exactly in stage COMPLETED, and then the stream ends")
def _(client):
    outcome = run(client, wire.shell("sleep 0.3"))
    for operation, entry in zip(outcome.operations, outcome.metadata()):
        assert entry is not None, "a message without metadata"
        assert operation.done == (entry.stage == COMPLETED), entry
    assert [operation.done for operation in outcome.operations].count(True) == 1


@check("execute-first-answer-early", "OURS", "a running action is announced before it ends")
def _(client):
    action = wire.prepare(client, wire.shell("sleep 2"))
    outcome = completed(client.execute(action))
    assert len(outcome.operations) > 1, "the only message was the last one"
    assert re.ExecutionStage.EXECUTING in outcome.stages(), outcome.stages()


@check("execute-timestamps", "SHOULD", "execution_metadata has a worker, and its times are in order")
def _(client):
    data = run(client, wire.shell("sleep 0.1")).result.execution_metadata
    assert data.worker, "no worker"
    names = [
        "queued_timestamp", "worker_start_timestamp", "input_fetch_start_timestamp", "input_fetch_completed_timestamp",
        "execution_start_timestamp", "execution_completed_timestamp", "output_upload_start_timestamp",
        "output_upload_completed_timestamp", "worker_completed_timestamp",
    ]
    for name in names:
        assert data.HasField(name), f"no {name}"
    times = [getattr(data, name).ToNanoseconds() for name in names]
    assert times == sorted(times), dict(zip(names, times))


@check("execute-result-cached", "MUST", "the second Execute of an action is answered from the cache, and says so")
def _(client):
    action = wire.prepare(client, wire.shell("cat /proc/sys/kernel/random/uuid > out", outputs=["out"]))
    first, second = completed(client.execute(action)), completed(client.execute(action))
    assert not first.response.cached_result and second.response.cached_result
    assert first.result.output_files[0].digest == second.result.output_files[0].digest


@check("execute-skip-cache-lookup", "MUST", "skip_cache_lookup runs again, and the new result takes the old one's place")
def _(client):
    action = wire.prepare(client, wire.shell("cat /proc/sys/kernel/random/uuid > out", outputs=["out"]))
    first = completed(client.execute(action))
    second = completed(client.execute(action, skip_cache_lookup=True))
    assert not second.response.cached_result
    assert first.result.output_files[0].digest != second.result.output_files[0].digest
    assert client.cached(action).output_files[0].digest == second.result.output_files[0].digest


@check("execute-failure-not-cached", "SHOULD", "a result with an exit code other than 0 is not cached")
def _(client):
    action = wire.prepare(client, wire.shell("exit 4"))
    assert completed(client.execute(action)).result.exit_code == 4
    code, _answer = wire.code_of(lambda: client.cached(action))
    assert code == NOT_FOUND, code
    assert not completed(client.execute(action)).response.cached_result


@check("do-not-cache-not-stored", "MUST", "a do_not_cache action is in no cache, and runs every time")
def _(client):
    cmd = wire.shell("cat /proc/sys/kernel/random/uuid > out", outputs=["out"])
    action = wire.prepare(client, cmd, do_not_cache=True)
    first, second = completed(client.execute(action)), completed(client.execute(action))
    assert first.result.output_files[0].digest != second.result.output_files[0].digest
    code, _answer = wire.code_of(lambda: client.cached(action))
    assert code == NOT_FOUND, code


@check("do-not-cache-not-merged", "MUST", "do_not_cache actions in flight are not merged")
def _(client):
    cmd = wire.shell("cat /proc/sys/kernel/random/uuid > out; sleep 0.5", outputs=["out"])
    action = wire.prepare(client, cmd, do_not_cache=True)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        results = [future.result() for future in [pool.submit(client.execute, action) for _unused in range(2)]]
    digests = {completed(outcome).result.output_files[0].digest.hash for outcome in results}
    assert len(digests) == 2


@check("salt-is-another-action", "MUST", "another salt is another action")
def _(client):
    cmd = wire.shell("cat /proc/sys/kernel/random/uuid > out", outputs=["out"])
    found = [
        run(client, cmd, salt=salt).result.output_files[0].digest.hash for salt in (b"one", b"two")
    ]
    assert found[0] != found[1]


@check("priority-default", "MUST", "priorities of 0 are always taken")
def _(client):
    policy = {
        "execution_policy": re.ExecutionPolicy(priority=0), "results_cache_policy": re.ResultsCachePolicy(priority=0)
    }
    succeeded(client, run(client, wire.shell("true"), request=policy))


# --- what is missing ---------------------------------------------------------------------------------------------------


def subject(digest):
    return f"blobs/{digest.hash}/{digest.size_bytes}"


def reported(outcome, *digests):
    assert outcome.final_code() == PRECONDITION, outcome.final_code()
    subjects = wire.missing_subjects(outcome.final_status())
    assert subjects, "no PreconditionFailure whose violations are all MISSING"
    lost = {subject(digest) for digest in digests} - set(subjects)
    assert not lost, f"{lost} not among {subjects}"


def lost_action(client, parts):
    """Uploads an action but for the named parts; (its digest, what is lost)."""
    file, child_file = wire.unique(), wire.unique()
    child = wire.directory(files=[("below", wire.digest(child_file))])
    root = wire.directory(files=[("in", wire.digest(file))], directories=[("sub", wire.digest(pack(child)))])
    cmd = wire.shell("cat in")
    action = re.Action(command_digest=wire.digest(pack(cmd)), input_root_digest=wire.digest(pack(root)))
    blobs = {
        "file": file, "below": child_file, "directory": pack(child), "root": pack(root), "command": pack(cmd),
        "action": pack(action),
    }
    client.put(*[blob for part, blob in blobs.items() if part not in parts])
    return wire.digest(blobs["action"]), [wire.digest(blobs[part]) for part in parts]


def lost(part):
    @check(f"lost-{part}", "MUST", "a lost blob: FAILED_PRECONDITION, PreconditionFailure, MISSING, its blobs/ name")
    def _(client):
        action, gone = lost_action(client, [part])
        reported(client.execute(action), *gone)


for part in ("action", "command", "root", "directory", "file", "below"):
    lost(part)


@check("lost-all-at-once", "SHOULD", "all that is lost is reported in one answer")
def _(client):
    action, gone = lost_action(client, ["file", "below", "command"])
    reported(client.execute(action), *gone)


@check("lost-then-uploaded", "MUST", "after the upload of what was lost the same action runs")
def _(client):
    file = wire.unique()
    root = wire.directory(files=[("in", wire.digest(file))])
    action = wire.prepare(client, wire.shell("cat in"), root)
    reported(client.execute(action), wire.digest(file))
    client.put(file)
    assert stdout(client, succeeded(client, client.execute(action))) == file


# --- refusals ----------------------------------------------------------------------------------------------------------


@check("action-other-size", "MUST", "an action digest with a wrong size is rejected")
def _(client):
    action = wire.prepare(client, wire.shell("true"))
    action.size_bytes += 1
    assert client.execute(action).final_code() in (INVALID, PRECONDITION)


@check("action-malformed-digest", "MUST", "an action digest that is none: INVALID_ARGUMENT")
def _(client):
    assert client.execute(re.Digest(hash="nonsense", size_bytes=3)).final_code() == INVALID


@check("action-garbage", "MUST", "an Action that does not decode: INVALID_ARGUMENT")
def _(client):
    code = client.execute(client.put(b"\xff\xff" + wire.unique())).final_code()
    assert code in (INVALID, PRECONDITION), code


@check("command-garbage", "MUST", "a Command that does not decode: INVALID_ARGUMENT")
def _(client):
    garbage = client.put(b"\xff\xff" + wire.unique())
    client.put(pack(re.Directory()) or wire.unique())
    action = re.Action(command_digest=garbage, input_root_digest=wire.digest(b""))
    code = client.execute(client.put(pack(action))).final_code()
    assert code in (INVALID, PRECONDITION), code


@check("command-no-arguments", "MUST", "a command without arguments: INVALID_ARGUMENT")
def _(client):
    rejected(client, re.Command(environment_variables=[{"name": "A", "value": wire.unique().decode()}]), INVALID)


@check("command-not-found", "OURS", "a program that is not there: told as an error, or as exit code 126 or 127")
def _(client):
    outcome = client.execute(wire.prepare(client, wire.command("/no/such/program", wire.unique().decode())))
    code = outcome.final_code()
    if code == OK:
        assert outcome.result.exit_code in (126, 127), outcome.result.exit_code
    else:
        assert code in (INVALID, PRECONDITION), code


@check("command-nul-in-argument", "OURS", "a NUL in an argument cannot be passed to a program: INVALID_ARGUMENT")
def _(client):
    rejected(client, wire.command("/bin/sh", "-c", "true\0" + wire.unique().decode()), INVALID)


@check("platform-unknown-property", "SHOULD", "a platform property that nobody knows is rejected, not queued for ever")
def _(client):
    platform = re.Platform(properties=[{"name": "fulgurite-no-such-property", "value": "1"}])
    rejected(client, wire.shell("true"), INVALID, PRECONDITION, platform=platform)


@check("platform-linux", "MUST", "OSFamily=linux is this server's own")
def _(client):
    platform = re.Platform(properties=[{"name": "OSFamily", "value": "linux"}])
    succeeded(client, run(client, wire.shell("true"), platform=platform))


@check("platform-other-system", "MUST", "OSFamily=windows: FAILED_PRECONDITION, for no worker is of that kind")
def _(client):
    platform = re.Platform(properties=[{"name": "OSFamily", "value": "windows"}])
    rejected(client, wire.shell("true"), PRECONDITION, INVALID, platform=platform)


@check("platform-of-action-first", "MUST", "Action.platform comes before Command.platform")
def _(client):
    cmd = wire.shell("true")
    cmd.platform.properties.add(name="OSFamily", value="windows")
    platform = re.Platform(properties=[{"name": "OSFamily", "value": "linux"}])
    succeeded(client, run(client, cmd, platform=platform))


# --- time --------------------------------------------------------------------------------------------------------------


@check("timeout-ends-action", "MUST", "an action over its timeout: DEADLINE_EXCEEDED in ExecuteResponse.status")
def _(client):
    outcome = client.execute(wire.prepare(client, wire.shell("sleep 60"), timeout=wire.seconds(1)))
    assert outcome.code == OK and outcome.response is not None, f"the call itself ended with {outcome.code}"
    assert outcome.response.status.code == DEADLINE.value[0], outcome.response.status


@check("timeout-keeps-output", "SHOULD", "what was printed before the timeout comes back")
def _(client):
    cmd = wire.shell("echo before; echo also >&2; sleep 60")
    outcome = client.execute(wire.prepare(client, cmd, timeout=wire.seconds(1)))
    assert outcome.final_code() == DEADLINE, outcome.final_code()
    assert stdout(client, outcome.result) == b"before\n" and stderr(client, outcome.result) == b"also\n"


@check("timeout-not-cached", "MUST", "a result with a status other than OK is never cached")
def _(client):
    action = wire.prepare(client, wire.shell("sleep 60"), timeout=wire.seconds(1))
    assert client.execute(action).final_code() == DEADLINE
    code, _answer = wire.code_of(lambda: client.cached(action))
    assert code == NOT_FOUND, code


@check("timeout-ignoring-term", "OURS", "an action that ignores SIGTERM ends all the same")
def _(client):
    cmd = wire.shell("trap '' TERM INT HUP; while :; do sleep 1; done")
    outcome = client.execute(wire.prepare(client, cmd, timeout=wire.seconds(1)), timeout=40)
    assert outcome.final_code() == DEADLINE, outcome.final_code()


@check("timeout-above-maximum", "MUST", "a timeout above the server's maximum is rejected with INVALID_ARGUMENT")
def _(client):
    rejected(client, wire.shell("true"), INVALID, timeout=wire.seconds(100 * 365 * 86400))


@check("timeout-negative", "OURS", "a negative timeout: INVALID_ARGUMENT")
def _(client):
    rejected(client, wire.shell("true"), INVALID, timeout=wire.seconds(-5))


@check("background-process", "OURS", "a process left behind does not keep the result waiting")
def _(client):
    started = time.monotonic()
    result = succeeded(client, run(client, wire.shell("sleep 100 & echo started")))
    assert stdout(client, result) == b"started\n" and time.monotonic() - started < 60


@check("stdin-is-empty", "OURS", "standard input is at its end")
def _(client):
    assert stdout(client, succeeded(client, run(client, wire.shell("cat; echo end")))) == b"end\n"


@check("stdout-large", "MUST", "8 MiB of standard output come back whole")
def _(client):
    result = succeeded(client, run(client, wire.shell("head -c 8388608 /dev/zero | tr '\\0' x")))
    assert stdout(client, result) == b"x" * 8388608


@check("stdout-binary", "MUST", "standard output is bytes, not text")
def _(client):
    assert stdout(client, succeeded(client, run(client, wire.shell("printf '\\377\\000\\376'")))) == b"\xff\x00\xfe"


@check("execute-parallel", "OURS", "64 clients at once each get their own result")
def _(client):
    def one(number):
        result = succeeded(client, run(client, wire.shell(f"echo {number} > out", outputs=["out"])))
        return files_of(client, result)["out"] == f"{number}\n".encode()

    client.timeout = 120
    with concurrent.futures.ThreadPoolExecutor(64) as pool:
        assert all(pool.map(one, range(64)))
