"""The action cache."""
import wire
from rules import INVALID, NOT_FOUND, OK, PRECONDITION, Skip, check, refused
from wire import grpc, pack, re

DENIED = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAUTHENTICATED)


def an_action(client):
    return wire.prepare(client, wire.shell("true"))


def a_result(**fields):
    result = re.ActionResult(exit_code=0, **fields)
    result.execution_metadata.worker = "a client"
    return result


def store(client, action, result):
    """Stores; skips the check where clients may not."""
    code, answer = wire.code_of(lambda: client.store_result(action, result))
    if code in DENIED:
        raise Skip(f"clients may not write the action cache: {code.name}")
    return code, answer


@check("cache-unknown", "MUST", "an unknown action: NOT_FOUND")
def _(client):
    refused(lambda: client.cached(wire.digest(wire.unique())), NOT_FOUND)


@check("cache-malformed-digest", "MUST", "a digest that is none: INVALID_ARGUMENT")
def _(client):
    refused(lambda: client.cached(re.Digest(hash="xyz", size_bytes=1)), INVALID)


@check("cache-round-trip", "MUST", "what UpdateActionResult took, GetActionResult gives back")
def _(client):
    action, out = an_action(client), client.put(wire.unique())
    result = a_result(output_files=[re.OutputFile(path="out", digest=out, is_executable=True)])
    code, answer = store(client, action, result)
    assert code == OK, f"{code.name}: {answer.details()}"
    found = client.cached(action)
    assert [(file.path, file.digest.hash, file.is_executable) for file in found.output_files] == [
        ("out", out.hash, True)
    ]


@check("cache-overwrite", "MUST", "a later result takes the place of the earlier one")
def _(client):
    action = an_action(client)
    for text in ("first", "second"):
        code, _answer = store(client, action, a_result(output_files=[
            re.OutputFile(path=text, digest=client.put(wire.unique()))
        ]))
        assert code == OK, code
    assert [file.path for file in client.cached(action).output_files] == ["second"]


@check("cache-update-without-action", "SHOULD", "the Action must be in the CAS first: FAILED_PRECONDITION")
def _(client):
    code, _answer = store(client, wire.digest(wire.unique()), a_result())
    assert code == PRECONDITION, code


@check("cache-update-without-output", "SHOULD", "all that a result refers to must be there: FAILED_PRECONDITION")
def _(client):
    lost = re.OutputFile(path="out", digest=wire.digest(wire.unique()))
    code, _answer = store(client, an_action(client), a_result(output_files=[lost]))
    assert code == PRECONDITION, code


def dangling(name, make):
    @check(f"cache-never-dangling-{name}", "SHOULD", "a result that points at nothing is NOT_FOUND, however it came")
    def _(client):
        action = an_action(client)
        store(client, action, make(client))
        refused(lambda: client.cached(action), NOT_FOUND)


def lost_in_tree(client):
    tree = re.Tree(root=wire.directory(files=[("lost", wire.digest(wire.unique()))]))
    return a_result(output_directories=[re.OutputDirectory(path="d", tree_digest=client.put(pack(tree)))])


dangling("file", lambda _: a_result(output_files=[re.OutputFile(path="o", digest=wire.digest(wire.unique()))]))
dangling("tree", lambda _: a_result(output_directories=[
    re.OutputDirectory(path="d", tree_digest=wire.digest(wire.unique()))]))
dangling("inside-tree", lost_in_tree)
dangling("stdout", lambda _: a_result(stdout_digest=wire.digest(wire.unique())))
dangling("stderr", lambda _: a_result(stderr_digest=wire.digest(wire.unique())))


@check("cache-hostile-path", "OURS", "a result whose output path leaves the tree is not taken, or not served")
def _(client):
    action = an_action(client)
    store(client, action, a_result(output_files=[
        re.OutputFile(path="../../escape", digest=client.put(wire.unique()))
    ]))
    refused(lambda: client.cached(action), NOT_FOUND, INVALID)


@check("cache-absolute-path", "OURS", "a result with an absolute output path is not taken, or not served")
def _(client):
    action = an_action(client)
    store(client, action, a_result(output_symlinks=[re.OutputSymlink(path="/etc/escape", target="x")]))
    refused(lambda: client.cached(action), NOT_FOUND, INVALID)


@check("cache-sibling-path", "OURS", "output paths may leave the working directory for the rest of the input root")
def _(client):
    action = wire.prepare(client, wire.shell("true", working_directory="deep/er"))
    code, answer = store(client, action, a_result(output_files=[
        re.OutputFile(path="../../sibling/out", digest=client.put(wire.unique()))
    ]))
    assert code == OK, f"{code.name}: {answer.details()}"
    assert [file.path for file in client.cached(action).output_files] == ["../../sibling/out"]


@check("cache-after-execute", "MUST", "the result of a successful action is in the cache")
def _(client):
    action = wire.prepare(client, wire.shell("echo cached > out", outputs=["out"]))
    outcome = client.execute(action)
    assert outcome.result is not None and outcome.result.exit_code == 0, outcome.final_code()
    found = client.cached(action)
    assert [file.path for file in found.output_files] == ["out"]


@check("cache-inline-not-unasked", "OURS", "stdout and files are not inlined where nobody asked")
def _(client):
    action = wire.prepare(client, wire.shell("echo text; echo more > out", outputs=["out"]))
    client.execute(action)
    found = client.cached(action)
    assert not found.stdout_raw and not any(file.contents for file in found.output_files)


@check("cache-inline-asked-is-right", "MUST", "what is inlined on request is what the digest names")
def _(client):
    action = wire.prepare(client, wire.shell("echo text; echo more > out", outputs=["out"]))
    client.execute(action)
    found = client.cached(action, inline_stdout=True, inline_stderr=True, inline_output_files=["out"])
    assert found.stdout_raw in (b"", b"text\n"), found.stdout_raw
    assert [file.contents for file in found.output_files][0] in (b"", b"more\n")
