"""What an action sees: its tree, its directory, its environment; and trees that nobody may stage."""
import os

import wire
from rules import INVALID, PRECONDITION, check, files_of, rejected, run, stdout, succeeded
from wire import pack, re

REFUSED = (INVALID, PRECONDITION)


def seen(client, script, root, blobs=(), **more):
    return stdout(client, succeeded(client, run(client, wire.shell(script, **more), root, blobs)))


@check("inputs-whole-tree", "MUST", "files, nested and empty directories and links are as the tree says")
def _(client):
    blob, empty = wire.unique(), re.Directory()
    deep = wire.directory(files=[("f", wire.digest(blob))], symlinks=[("up", "../top")])
    root = wire.directory(
        files=[("top", wire.digest(blob))],
        directories=[("a", wire.digest(pack(deep))), ("empty", wire.digest(pack(empty)))],
    )
    script = "cat top a/f a/up; readlink a/up; test -d empty && ls -A empty | wc -l"
    assert seen(client, script, root, [blob, pack(deep)]) == blob * 3 + b"../top\n0\n"


@check("inputs-executable-bit", "MUST", "is_executable is what the file's mode says, either way")
def _(client):
    script = b"#!/bin/sh\necho ran\n"
    plain = wire.unique()
    root = wire.directory(files=[("run", wire.digest(script), True), ("plain", wire.digest(plain), False)])
    text = seen(client, "./run; test -x plain && echo executable || echo plain", root, [script, plain])
    assert text == b"ran\nplain\n", text


@check("inputs-one-blob-both-modes", "MUST", "one digest as an executable and as a plain file in one tree")
def _(client):
    script = b"#!/bin/sh\necho ran " + wire.unique() + b"\n"
    root = wire.directory(files=[("x", wire.digest(script), True), ("y", wire.digest(script), False)])
    text = seen(client, "test -x x && echo x; test ! -x y && echo not y", root, [script])
    assert text == b"x\nnot y\n", text


@check("inputs-thousand", "OURS", "a thousand files")
def _(client):
    blobs = [f"{i} ".encode() + wire.unique() for i in range(1000)]
    root = wire.directory(files=[(f"f{i:04}", wire.digest(blob)) for i, blob in enumerate(blobs)])
    result = succeeded(client, run(client, wire.shell("cat f* > out", outputs=["out"]), root, blobs))
    assert files_of(client, result)["out"] == b"".join(blobs)


@check("inputs-odd-names", "MUST", "names are bytes: spaces, quotes, newlines, dashes, what is not ASCII")
def _(client):
    blob = wire.unique()
    names = ["a b", "-n", "quo'te\"", "new\nline", "ümläut", "*", "x" * 255, ".hidden"]
    root = wire.directory(files=[(name, wire.digest(blob)) for name in names])
    assert int(seen(client, "n=0; for f in * .h*; do test -f \"./$f\" && n=$((n+1)); done; echo $n", root, [blob])) == 8


@check("inputs-poison", "OURS", "an action that rewrites its input changes nothing for the next one, nor in the store")
def _(client):
    blob = wire.unique()
    root = wire.directory(files=[("in", wire.digest(blob), True)])
    script = "chmod u+w in; echo poison > in; echo more >> in; chmod 777 in; true"
    run(client, wire.shell(script), root, [blob])
    assert seen(client, "cat in", root) == blob
    assert client.read_batch(wire.digest(blob))[0].data == blob


@check("inputs-writable-root", "MUST", "an action can make files beside its inputs")
def _(client):
    blob = wire.unique()
    sub = wire.directory(files=[("f", wire.digest(blob))])
    root = wire.directory(directories=[("sub", wire.digest(pack(sub)))])
    assert seen(client, "echo new > sub/new; mkdir d; echo x > d/x; cat sub/new", root, [blob, pack(sub)]) == b"new\n"


@check("inputs-fresh-every-time", "MUST", "nothing of one action is seen by the next")
def _(client):
    blob = wire.unique()
    root = wire.directory(files=[("in", wire.digest(blob))])
    run(client, wire.shell("echo left > left; echo left > /tmp/fulgurite-left; rm -f in"), root, [blob])
    text = seen(client, "ls in left /tmp/fulgurite-left 2>/dev/null; true", root)
    assert text == b"in\n", text


@check("inputs-node-properties", "MUST", "node properties of inputs are taken, known or not")
def _(client):
    blob = wire.unique()
    root = wire.directory(files=[("tool", wire.digest(blob))])
    root.files[0].node_properties.properties.add(name="bazel_tool_input", value="")
    assert seen(client, "cat tool", root, [blob]) == blob


@check("inputs-stable-inode", "OURS", "a file read twice is one file: `#pragma once` goes by device and inode")
def _(client):
    blob = wire.unique()
    root = wire.directory(files=[("h", wire.digest(blob))], symlinks=[("l", "h")])
    text = seen(client, "stat -Lc %d:%i h; cat h > /dev/null; stat -Lc %d:%i h; stat -Lc %d:%i l", root, [blob])
    assert len(set(text.split())) == 1, text


@check("working-directory", "MUST", "the command runs in working_directory, and outputs are relative to it")
def _(client):
    blob = wire.unique()
    sub = wire.directory(files=[("f", wire.digest(blob))])
    root = wire.directory(directories=[("sub", wire.digest(pack(sub)))])
    cmd = wire.shell("cat f > out", outputs=["out"], working_directory="sub")
    assert files_of(client, succeeded(client, run(client, cmd, root, [blob, pack(sub)]))) == {"out": blob}


@check("working-directory-siblings", "OURS", "outputs may lie beside the working directory")
def _(client):
    sub = re.Directory()
    root = wire.directory(directories=[("sub", wire.digest(pack(sub)))])
    cmd = wire.shell("echo x > ../next/out", outputs=["../next/out"], working_directory="sub")
    outcome = run(client, cmd, root=root, blobs=[pack(sub)])
    assert [file.path for file in succeeded(client, outcome).output_files] == ["../next/out"]


@check("working-directory-missing", "MUST", "working_directory must be in the input tree")
def _(client):
    rejected(client, wire.shell("true", working_directory="not/there"), *REFUSED)


@check("working-directory-escape", "OURS", "a working_directory that leaves the tree is refused")
def _(client):
    rejected(client, wire.shell("true", working_directory="../.."), *REFUSED)


@check("working-directory-absolute", "OURS", "an absolute working_directory is refused")
def _(client):
    rejected(client, wire.shell("true", working_directory="/etc"), *REFUSED)


@check("environment", "MUST", "the command's variables are set, and win over any default")
def _(client):
    env = {"PATH": "/usr/bin:/bin", "FULGURITE": "a b=c", "EMPTY": ""}
    text = seen(client, "echo \"$FULGURITE|${EMPTY-unset}|$PATH\"", re.Directory(), env=env)
    assert text == b"a b=c||/usr/bin:/bin\n", text


@check("environment-is-minimal", "OURS", "nothing of the server's own environment is seen")
def _(client):
    names = {line.split(b"=")[0] for line in seen(client, "env", re.Directory()).splitlines()}
    added = names - {b"PATH", b"PWD", b"SHLVL", b"_", b"OLDPWD", b"HOME", b"TMPDIR", b"USER", b"LANG", b"LC_ALL"}
    assert not added, added


@check("argument-relative", "MUST", "arguments[0] with a slash is relative to the working directory (2.3)")
def _(client):
    script = b"#!/bin/sh\necho ran relative\n"
    bin_dir = wire.directory(files=[("tool", wire.digest(script), True)])
    root = wire.directory(directories=[("bin", wire.digest(pack(bin_dir)))])
    cmd = wire.command("bin/tool", wire.unique().decode(), env={"PATH": "/usr/bin:/bin"})
    assert stdout(client, succeeded(client, run(client, cmd, root, [script, pack(bin_dir)]))) == b"ran relative\n"


@check("argument-in-path", "MUST", "arguments[0] without a slash is looked up in the command's PATH")
def _(client):
    cmd = wire.command("echo", wire.unique().decode(), env={"PATH": "/usr/bin:/bin"})
    assert succeeded(client, run(client, cmd)).exit_code == 0


@check("arguments-verbatim", "MUST", "arguments come as they are: empty, with spaces, quotes and newlines")
def _(client):
    wanted = ["", "a b", "'", '"', "$HOME", "new\nline", "ü", wire.unique().decode()]
    cmd = wire.command("/bin/sh", "-c", "printf '%s\\0' \"$@\"", "sh", *wanted, env={"PATH": "/usr/bin:/bin"})
    found = stdout(client, succeeded(client, run(client, cmd)))
    assert found == "".join(f"{text}\0" for text in wanted).encode()


@check("many-arguments", "OURS", "a command line of 1 MiB")
def _(client):
    wanted = [f"{i:08}" * 8 for i in range(16_000)]
    cmd = wire.command("/bin/sh", "-c", "echo $#", "sh", *wanted, wire.unique().decode(), env={"PATH": "/usr/bin:/bin"})
    assert stdout(client, succeeded(client, run(client, cmd))) == b"16001\n"


# --- trees that are refused --------------------------------------------------------------------------------------------


def hostile(name, make, strength="MUST"):
    @check(f"hostile-{name}", strength, "such a tree is refused before anything of it is staged")
    def _(client):
        blob = wire.unique()
        root = make(wire.digest(blob))
        extra = []
        if isinstance(root, tuple):
            root, extra = root
        rejected(client, wire.shell("ls -la"), *REFUSED, root=root, blobs=[blob, *extra])


for text, shown in ((".", "dot"), ("..", "dotdot"), ("", "empty"), ("a/b", "slash"), ("/etc/passwd", "absolute")):
    hostile(f"file-name-{shown}", lambda blob, text=text: wire.directory(files=[(text, blob)]))
    hostile(f"link-name-{shown}", lambda blob, text=text: wire.directory(symlinks=[(text, "target")]))
for text, shown in (("..", "dotdot"), ("a/../../b", "path")):
    hostile(f"directory-name-{shown}", lambda blob, text=text: wire.directory(directories=[(text, wire.digest(b""))]))
hostile("name-nul", lambda blob: wire.directory(files=[("a\0b", blob)]))
hostile("name-too-long", lambda blob: wire.directory(files=[("x" * 256, blob)]), "OURS")
hostile("duplicate-file", lambda blob: wire.directory(files=[("same", blob), ("same", blob)]))
hostile("file-and-directory", lambda blob: wire.directory(files=[("same", blob)], directories=[("same", wire.digest(b""))]))
hostile("file-and-link", lambda blob: wire.directory(files=[("same", blob)], symlinks=[("same", "/etc")]))
hostile("link-and-directory", lambda blob: wire.directory(
    directories=[("same", wire.digest(b""))], symlinks=[("same", "/etc")]))
hostile("unsorted", lambda blob: wire.directory(files=[("b", blob), ("a", blob)], sort=False), "OURS")
hostile("link-target-empty", lambda blob: wire.directory(symlinks=[("link", "")]), "OURS")
hostile("directory-garbage", lambda blob: (
    wire.directory(directories=[("d", wire.digest(b"\xff\xff\xff garbage"))]), [b"\xff\xff\xff garbage"]))


@check("hostile-shared-paths", "OURS", "a tree of 2^40 paths by sharing is refused, quickly")
def _(client):
    blob = wire.unique()
    level, blobs = wire.directory(files=[("leaf", wire.digest(blob))]), [blob]
    for _unused in range(40):
        blobs.append(pack(level))
        below = wire.digest(pack(level))
        level = wire.directory(directories=[("a", below), ("b", below)])
    rejected(
        client, wire.shell("true"), *REFUSED, wire.grpc.StatusCode.RESOURCE_EXHAUSTED, root=level, blobs=blobs
    )


@check("symlink-absolute-as-advertised", "MUST", "absolute links in inputs: taken where ALLOWED, INVALID_ARGUMENT otherwise")
def _(client):
    strategy = client.capabilities().cache_capabilities.symlink_absolute_path_strategy
    root = wire.directory(symlinks=[("link", "/usr/bin")])
    if strategy == re.SymlinkAbsolutePathStrategy.ALLOWED:
        assert seen(client, "readlink link", root) == b"/usr/bin\n"
    else:
        rejected(client, wire.shell("true"), *REFUSED, root=root)


@check("symlink-dangling-input", "MUST", "a link to nothing is an input like any other")
def _(client):
    target = f"nowhere-{os.getpid()}"
    root = wire.directory(symlinks=[("link", target)])
    assert seen(client, "readlink link", root) == f"{target}\n".encode()
