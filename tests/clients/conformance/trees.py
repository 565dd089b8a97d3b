"""GetTree."""
import wire
from rules import INVALID, NOT_FOUND, check, refused
from wire import pack


def store(client, messages):
    client.put(*[pack(message) for message in messages])
    return [wire.digest(pack(message)) for message in messages]


def hashes(answers):
    return {wire.digest(pack(entry)).hash for answer in answers for entry in answer.directories}


def three(client, keep=True):
    """A root over two different subdirectories; the second is stored only if asked."""
    left = wire.directory(files=[("a", client.put(wire.unique()))])
    right = wire.directory(symlinks=[("b", wire.unique().decode().replace("/", ""))])
    root = wire.directory(directories=[("left", wire.digest(pack(left))), ("right", wire.digest(pack(right)))])
    store(client, [left, right, root] if keep else [left, root])
    return [wire.digest(pack(message)) for message in (root, left, right)]


@check("tree-is-whole", "MUST", "GetTree gives the root and all that is below it")
def _(client):
    root, left, right = three(client)
    assert hashes(client.tree(root)) == {root.hash, left.hash, right.hash}


@check("tree-missing-root", "MUST", "a root that is not there: NOT_FOUND")
def _(client):
    refused(lambda: client.tree(wire.digest(wire.unique())), NOT_FOUND)


@check("tree-missing-part-left-out", "MUST", "what is missing below the root is left out; the rest is given")
def _(client):
    root, left, _right = three(client, keep=False)
    assert hashes(client.tree(root)) == {root.hash, left.hash}


@check("tree-pages", "MUST", "page_token goes on where the last answer ended; together they are the whole tree")
def _(client):
    root, left, right = three(client)
    found, token = set(), ""
    for _unused in range(10):
        answers = client.tree(root, page_size=1, page_token=token)
        found |= hashes(answers)
        token = answers[-1].next_page_token if answers else ""
        if not token:
            break
    assert found == {root.hash, left.hash, right.hash}, found


@check("tree-empty-root", "MUST", "the tree of the empty directory can be asked for")
def _(client):
    assert len(hashes(client.tree(wire.digest(b"")))) == 1


@check("tree-deep", "OURS", "300 directories, each in the one before")
def _(client):
    level, messages = wire.directory(files=[("leaf", client.put(wire.unique()))]), []
    for _unused in range(300):
        messages.append(level)
        level = wire.directory(directories=[("d", wire.digest(pack(level)))])
    digests = store(client, [*messages, level])
    assert len(hashes(client.tree(digests[-1]))) == 301


@check("tree-shared-is-bounded", "OURS", "a tree of 2^30 paths by sharing is answered in bounded size, or refused")
def _(client):
    level = wire.directory(files=[("leaf", client.put(wire.unique()))])
    messages = [level]
    for _unused in range(30):
        below = wire.digest(pack(level))
        level = wire.directory(directories=[("a", below), ("b", below)])
        messages.append(level)
    digests = store(client, messages)
    status, answers = wire.code_of(lambda: client.tree(digests[-1]))
    if status == wire.grpc.StatusCode.OK:
        assert sum(len(answer.directories) for answer in answers) < 10_000
    else:
        assert status in (INVALID, wire.grpc.StatusCode.RESOURCE_EXHAUSTED), status
