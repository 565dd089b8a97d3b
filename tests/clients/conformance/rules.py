"""The table of checks, and what several of them need."""
import dataclasses
import typing

import wire
from wire import grpc, re

CHECKS = []
OK = grpc.StatusCode.OK
INVALID = grpc.StatusCode.INVALID_ARGUMENT
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
NOT_FOUND = grpc.StatusCode.NOT_FOUND


@dataclasses.dataclass
class Check:
    name: str
    strength: str
    rule: str
    function: typing.Callable


class Skip(Exception):
    """The server does not offer what the check is about."""


def check(name, strength, rule):
    """Adds a check. strength: MUST, SHOULD (the protocol's words), or OURS (what we ask of ourselves)."""
    assert strength in ("MUST", "SHOULD", "OURS"), strength
    assert all(entry.name != name for entry in CHECKS), f"two checks are called {name}"

    def add(function):
        CHECKS.append(Check(name, strength, rule, function))
        return function

    return add


def refused(call, *codes):
    """The call ends with one of these codes."""
    code, answer = wire.code_of(call)
    wanted = "/".join(entry.name for entry in codes)
    assert code in codes, f"{code.name} instead of {wanted}: {'' if code == OK else answer.details()}"
    return answer


def run(client, cmd, root=None, blobs=(), request=None, **action):
    """Prepares and executes; the outcome, which must have a result with status OK."""
    outcome = client.execute(wire.prepare(client, cmd, root, blobs, **action), **(request or {}))
    return completed(outcome)


def completed(outcome):
    assert outcome.code == OK, f"Execute ended with {outcome.code.name}: {outcome.error.details()}"
    assert outcome.response is not None, "the stream ended without a response"
    status = outcome.response.status
    assert status.code == 0, f"status {wire.CODES[status.code].name}: {status.message}"
    return outcome


def succeeded(client, outcome):
    completed(outcome)
    result = outcome.result
    assert result.exit_code == 0, f"exit code {result.exit_code}; stderr: {stderr(client, result)[-300:]}"
    return result


def rejected(client, cmd, *codes, root=None, blobs=(), **action):
    """Executing ends with one of these codes, as the call's status or the response's."""
    outcome = client.execute(wire.prepare(client, cmd, root, blobs, **action))
    code = outcome.final_code()
    wanted = "/".join(entry.name for entry in codes)
    assert code in codes, f"{code and code.name} instead of {wanted}"
    return outcome


def stdout(client, result):
    return result.stdout_raw or (client.get(result.stdout_digest) if result.HasField("stdout_digest") else b"")


def stderr(client, result):
    return result.stderr_raw or (client.get(result.stderr_digest) if result.HasField("stderr_digest") else b"")


def files_of(client, result):
    """Path to bytes of all output files."""
    return {file.path: file.contents or client.get(file.digest) for file in result.output_files}


def tree_of(client, directory):
    """Path to bytes, target or None (a directory) of an output directory."""
    tree = re.Tree.FromString(client.get(directory.tree_digest))
    children = {wire.digest(wire.pack(child)).hash: child for child in tree.children}
    found = {}

    def walk(prefix, node):
        for file in node.files:
            found[prefix + file.name] = client.get(file.digest)
        for link in node.symlinks:
            found[prefix + link.name] = link.target
        for entry in node.directories:
            found[prefix + entry.name] = None
            walk(prefix + entry.name + "/", children[entry.digest.hash])

    walk("", tree.root)
    return found
