"""The Python messages and stubs of our own .proto files, generated once into the cache and put on sys.path."""
import hashlib
import os
import pathlib
import sys
import tempfile

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
PROTO = REPOSITORY / "proto"
FILES = [
    "build/bazel/remote/execution/v2/remote_execution.proto",
    "build/bazel/semver/semver.proto",
    "google/api/annotations.proto",
    "google/api/client.proto",
    "google/api/field_behavior.proto",
    "google/api/http.proto",
    "google/api/launch_stage.proto",
    "google/bytestream/bytestream.proto",
    "google/longrunning/operations.proto",
    "google/rpc/code.proto",
    "google/rpc/error_details.proto",
    "google/rpc/status.proto",
]


def cache():
    place = os.environ.get("FULGURITE_CLIENTS_CACHE")
    if place:
        return pathlib.Path(place)
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(home) / "fulgurite-clients"


def generate():
    """The directory named by what the .proto files say, so that a change of theirs makes a new one."""
    files = [name for name in FILES if (PROTO / name).exists()]
    hasher = hashlib.sha256()
    for name in files:
        hasher.update(name.encode() + b"\0" + (PROTO / name).read_bytes())
    place = cache() / "stubs" / hasher.hexdigest()[:16]
    if not place.exists():
        from grpc_tools import protoc

        place.parent.mkdir(parents=True, exist_ok=True)
        made = tempfile.mkdtemp(dir=place.parent)
        include = str(pathlib.Path(protoc.__file__).parent / "_proto")
        command = ["protoc", f"-I{PROTO}", f"-I{include}", f"--python_out={made}", f"--grpc_python_out={made}"]
        if protoc.main(command + files) != 0:
            raise SystemExit("cannot generate the stubs")
        try:
            os.rename(made, place)
        except OSError:
            if not place.exists():  # Not somebody else who was faster.
                raise
    return place


sys.path.insert(0, str(generate()))
