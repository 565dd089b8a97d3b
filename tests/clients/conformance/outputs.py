"""What an action leaves: files, directories, links, in the new and in the older fields."""
import wire
from rules import (
    INVALID, OK, PRECONDITION, check, completed, files_of, rejected, run, stdout, succeeded, tree_of,
)
from wire import pack, re


def made(client, script, outputs, root=None, blobs=(), **more):
    return succeeded(client, run(client, wire.shell(script, outputs=outputs, **more), root, blobs))


def older(client, script, files=(), directories=(), **more):
    return succeeded(client, run(client, wire.shell(script, old_files=files, old_directories=directories, **more)))


@check("output-file", "MUST", "a file in output_paths comes back in output_files")
def _(client):
    assert files_of(client, made(client, "echo text > out", ["out"])) == {"out": b"text\n"}


@check("output-empty-file", "MUST", "an output of no bytes")
def _(client):
    result = made(client, ": > out", ["out"])
    assert [(file.path, file.digest.size_bytes) for file in result.output_files] == [("out", 0)]


@check("output-executable", "MUST", "is_executable is told, either way")
def _(client):
    result = made(client, "echo x > x; echo y > y; chmod 755 x; chmod 644 y", ["x", "y"])
    assert {file.path: file.is_executable for file in result.output_files} == {"x": True, "y": False}


@check("output-is-stored", "MUST", "outputs are in the CAS when the action is done")
def _(client):
    result = made(client, "head -c 100000 /dev/urandom > out", ["out"])
    assert client.missing(result.output_files[0].digest) == []
    assert wire.digest(client.get(result.output_files[0].digest)) == result.output_files[0].digest


@check("output-large", "OURS", "64 MiB")
def _(client):
    client.timeout = 120
    result = made(client, "head -c 67108864 /dev/zero > out", ["out"])
    assert result.output_files[0].digest == wire.digest(bytes(64 << 20))


@check("output-missing-omitted", "MUST", "an output that was not made is left out, and is no error")
def _(client):
    assert set(files_of(client, made(client, "echo > there", ["not-there", "there"]))) == {"there"}


@check("output-undeclared-discarded", "MUST", "only what was declared comes back")
def _(client):
    result = made(client, "echo > out; echo > other; mkdir d; echo > d/x", ["out"])
    assert set(files_of(client, result)) == {"out"} and not result.output_directories


@check("output-parents-made", "MUST", "the parents of outputs are there before the command runs")
def _(client):
    result = made(client, "echo deep > a/b/c/out", ["a/b/c/out"])
    assert set(files_of(client, result)) == {"a/b/c/out"}


@check("output-itself-not-made", "MUST", "but not the outputs themselves")
def _(client):
    text = stdout(client, made(client, "test -e a/out && echo there || echo absent", ["a/out"]))
    assert text == b"absent\n"


@check("output-directory", "MUST", "a directory in output_paths comes back as a Tree, with empty directories")
def _(client):
    result = made(client, "mkdir -p d/sub/empty; echo 1 > d/one; echo 2 > d/sub/two; ln -s one d/link", ["d"])
    directory, = result.output_directories
    assert directory.path == "d"
    wanted = {"one": b"1\n", "link": "one", "sub": None, "sub/two": b"2\n", "sub/empty": None}
    assert tree_of(client, directory) == wanted, tree_of(client, directory)


@check("output-directory-empty", "MUST", "an empty directory is an output too")
def _(client):
    directory, = made(client, "mkdir d", ["d"]).output_directories
    assert tree_of(client, directory) == {}


@check("output-tree-canonical", "MUST", "every Directory of a Tree has its lists sorted, and is found by its digest")
def _(client):
    directory, = made(client, "mkdir -p d/z/y d/a; echo > d/z/y/b; echo > d/z/y/A; echo > d/c", ["d"]).output_directories
    tree = re.Tree.FromString(client.get(directory.tree_digest))
    for node in (tree.root, *tree.children):
        for entries in (node.files, node.directories, node.symlinks):
            names = [entry.name.encode() for entry in entries]
            assert names == sorted(names), names
    tree_of(client, directory)


@check("output-tree-each-once", "SHOULD", "a Tree has every distinct child once")
def _(client):
    directory, = made(client, "for i in 1 2 3; do mkdir -p d/$i/same; echo x > d/$i/same/f; done", ["d"]).output_directories
    tree = re.Tree.FromString(client.get(directory.tree_digest))
    hashes = [wire.digest(pack(child)).hash for child in tree.children]
    assert len(hashes) == len(set(hashes)), hashes


@check("output-tree-sorted-as-told", "MUST", "is_topologically_sorted, where set, is true: parents before children")
def _(client):
    directory, = made(client, "mkdir -p d/b/c/d d/a; echo x > d/b/c/d/f", ["d"]).output_directories
    if not directory.is_topologically_sorted:
        return
    tree = re.Tree.FromString(client.get(directory.tree_digest))
    known = {entry.digest.hash for entry in tree.root.directories}
    for child in tree.children:
        assert wire.digest(pack(child)).hash in known, "a child stands before its parent"
        known |= {entry.digest.hash for entry in child.directories}


@check("output-tree-sorted", "OURS", "every Tree of ours is topologically sorted, and says so")
def _(client):
    directory, = made(client, "mkdir -p d/b; echo x > d/b/f", ["d"]).output_directories
    assert directory.is_topologically_sorted


@check("output-directory-format", "MUST", "DIRECTORY_ONLY and TREE_AND_DIRECTORY give root_directory_digest, readable")
def _(client):
    for wanted in (re.Command.DIRECTORY_ONLY, re.Command.TREE_AND_DIRECTORY):
        script = "mkdir -p d/sub; echo x > d/sub/f"
        directory, = made(client, script, ["d"], output_directory_format=wanted).output_directories
        root = re.Directory.FromString(client.get(directory.root_directory_digest))
        assert [entry.name for entry in root.directories] == ["sub"]
        assert client.missing(root.directories[0].digest) == []


@check("output-whole-directory", "MUST", "output_directories may have \"\", which is the whole working directory")
def _(client):
    cmd = wire.shell("echo x > x; mkdir d; echo y > d/y")
    cmd.output_directories.append("")
    result = succeeded(client, run(client, cmd))
    directory, = result.output_directories
    found = tree_of(client, directory)
    assert found.get("x") == b"x\n" and found.get("d/y") == b"y\n", found


@check("output-input-unchanged", "MUST", "an input may be declared as an output, and comes back as it is")
def _(client):
    blob = wire.unique()
    root = wire.directory(files=[("in", wire.digest(blob))])
    assert files_of(client, made(client, "true", ["in"], root, [blob])) == {"in": blob}


@check("output-replaces-input", "MUST", "an output over an input is the new one")
def _(client):
    blob = wire.unique()
    root = wire.directory(files=[("in", wire.digest(blob))])
    result = made(client, "rm -f in; echo new > in", ["in"], root, [blob])
    assert files_of(client, result) == {"in": b"new\n"}


@check("output-inside-input-directory", "MUST", "an output directory that has inputs in it comes back with both")
def _(client):
    blob = wire.unique()
    sub = wire.directory(files=[("in", wire.digest(blob))])
    root = wire.directory(directories=[("d", wire.digest(pack(sub)))])
    directory, = made(client, "echo new > d/new", ["d"], root, [blob, pack(sub)]).output_directories
    assert tree_of(client, directory) == {"in": blob, "new": b"new\n"}


@check("output-deleted-input", "MUST", "an input that the action removed is not in the output directory")
def _(client):
    blob = wire.unique()
    sub = wire.directory(files=[("keep", wire.digest(blob)), ("lose", wire.digest(blob))])
    root = wire.directory(directories=[("d", wire.digest(pack(sub)))])
    directory, = made(client, "rm -f d/lose", ["d"], root, [blob, pack(sub)]).output_directories
    assert set(tree_of(client, directory)) == {"keep"}


@check("output-hard-links", "OURS", "two names of one file are two outputs with one digest")
def _(client):
    result = made(client, "echo same > a; ln a b", ["a", "b"])
    assert files_of(client, result) == {"a": b"same\n", "b": b"same\n"}


@check("output-fifo-is-no-file", "OURS", "a fifo as an output is refused or left out, and nobody waits for a writer")
def _(client):
    outcome = client.execute(wire.prepare(client, wire.shell("mkfifo out", outputs=["out"])))
    if outcome.final_code() == OK:
        assert not outcome.result.output_files, outcome.result
    else:
        assert outcome.final_code() in (INVALID, PRECONDITION), outcome.final_code()


@check("output-unreadable", "OURS", "an output that its owner may not read comes back all the same")
def _(client):
    assert files_of(client, made(client, "echo x > out; chmod 000 out", ["out"])) == {"out": b"x\n"}


# --- links -------------------------------------------------------------------------------------------------------------


def links(entries):
    return {(entry.path, entry.target) for entry in entries}


@check("output-symlink", "MUST", "a link in output_paths comes back in output_symlinks")
def _(client):
    result = made(client, "echo x > target; ln -s target link", ["link"])
    assert links(result.output_symlinks) == {("link", "target")} and not result.output_files


@check("output-symlink-dangling", "MUST", "also one to nothing")
def _(client):
    assert links(made(client, "ln -s nowhere link", ["link"]).output_symlinks) == {("link", "nowhere")}


@check("output-symlink-to-directory", "MUST", "also one to a directory, which is not followed")
def _(client):
    result = made(client, "mkdir d; echo x > d/x; ln -s d link", ["link"])
    assert links(result.output_symlinks) == {("link", "d")} and not result.output_directories


@check("output-symlink-old-file", "MUST", "a link in output_files comes back in output_file_symlinks too")
def _(client):
    result = older(client, "echo x > target; ln -s target link", files=["link"])
    assert links(result.output_file_symlinks) == {("link", "target")}, result


@check("output-symlink-old-directory", "MUST", "a link in output_directories comes back in output_directory_symlinks too")
def _(client):
    result = older(client, "mkdir d; ln -s d link", directories=["link"])
    assert links(result.output_directory_symlinks) == {("link", "d")}, result


@check("output-symlink-absolute", "MUST", "absolute links as outputs: taken where ALLOWED, FAILED_PRECONDITION otherwise")
def _(client):
    strategy = client.capabilities().cache_capabilities.symlink_absolute_path_strategy
    cmd = wire.shell("ln -s /usr/bin/env link", outputs=["link"])
    if strategy == re.SymlinkAbsolutePathStrategy.ALLOWED:
        assert links(succeeded(client, run(client, cmd)).output_symlinks) == {("link", "/usr/bin/env")}
    else:
        rejected(client, cmd, PRECONDITION, INVALID)


@check("output-through-symlink", "OURS", "an output behind a link that leaves the tree is never the host's file")
def _(client):
    outcome = client.execute(wire.prepare(client, wire.shell("rm -rf d; ln -s /etc d", outputs=["d/passwd"])))
    assert outcome.result is None or not outcome.result.output_files, outcome.result.output_files


# --- the older fields ----------------------------------------------------------------------------------------------------


@check("old-output-files", "MUST", "output_files of clients before 2.1")
def _(client):
    result = older(client, "echo x > a/out", files=["a/out"])
    assert files_of(client, result) == {"a/out": b"x\n"}


@check("old-output-directories", "MUST", "output_directories of clients before 2.1; their parents are made")
def _(client):
    result = older(client, "mkdir a/d && echo x > a/d/f", directories=["a/d"])
    directory, = result.output_directories
    assert tree_of(client, directory) == {"f": b"x\n"}


@check("old-outputs-both", "MUST", "both older fields in one command")
def _(client):
    result = older(client, "echo x > f; mkdir d; echo y > d/y", files=["f"], directories=["d"])
    assert set(files_of(client, result)) == {"f"} and [entry.path for entry in result.output_directories] == ["d"]


@check("old-outputs-ignored", "MUST", "where output_paths is set, the older fields are ignored")
def _(client):
    cmd = wire.shell("echo x > new; echo x > old", outputs=["new"], old_files=["old"])
    assert set(files_of(client, succeeded(client, run(client, cmd)))) == {"new"}


@check("old-wrong-type-file", "MUST", "a directory where output_files names a file: FAILED_PRECONDITION")
def _(client):
    rejected(client, wire.shell("mkdir out", old_files=["out"]), PRECONDITION)


@check("old-wrong-type-directory", "MUST", "a file where output_directories names a directory: FAILED_PRECONDITION")
def _(client):
    rejected(client, wire.shell("echo > out", old_directories=["out"]), PRECONDITION)


# --- paths that are refused ----------------------------------------------------------------------------------------------


def bad_path(name, text, strength="MUST"):
    @check(f"output-path-{name}", strength, "such an output path: INVALID_ARGUMENT, and nothing is moved")
    def _(client):
        cmd = wire.shell("true")
        cmd.output_paths.append(text)
        rejected(client, cmd, INVALID, PRECONDITION)


bad_path("dotdot", "../escape")
bad_path("dotdot-inside", "a/../../escape")
bad_path("absolute", "/etc/passwd")
bad_path("trailing-slash", "a/")
bad_path("nul", "a\0b", "OURS")
bad_path("dot-segment", "a/./b", "OURS")
bad_path("double-slash", "a//b", "OURS")


@check("output-node-property-unknown", "MUST", "an unknown name in output_node_properties: INVALID_ARGUMENT")
def _(client):
    cmd = wire.shell("echo > out", outputs=["out"], output_node_properties=["fulgurite-no-such-property"])
    rejected(client, cmd, INVALID)


@check("output-node-properties-as-advertised", "MUST", "those in supported_node_properties are given")
def _(client):
    known = client.capabilities().execution_capabilities.supported_node_properties
    cmd = wire.shell("echo > out; chmod 640 out", outputs=["out"], output_node_properties=sorted(known))
    file, = completed(client.execute(wire.prepare(client, cmd))).result.output_files
    if "unix_mode" in known:
        assert file.node_properties.unix_mode.value & 0o777 == 0o640, file
    if "mtime" in known:
        assert file.node_properties.HasField("mtime"), file
