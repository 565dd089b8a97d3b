"""google.bytestream: Read, Write, QueryWriteStatus, plain and compressed."""
import concurrent.futures
import os

import wire
import zstandard
from rules import INVALID, NOT_FOUND, OK, Skip, check, refused
from wire import bs, grpc, re

RANGE = grpc.StatusCode.OUT_OF_RANGE


def stored(client, size=5000):
    blob = os.urandom(size)
    return blob, client.put(blob)


def read_name(client, wanted, kind="blobs"):
    prefix = f"{client.instance}/" if client.instance else ""
    return f"{prefix}{kind}/{wanted.hash}/{wanted.size_bytes}"


def status(client, name):
    return client.stream.QueryWriteStatus(bs.QueryWriteStatusRequest(resource_name=name), timeout=client.timeout)


def raw_write(client, *requests):
    return client.stream.Write(iter(requests), timeout=client.timeout)


@check("stream-round-trip", "MUST", "what Write took, Read gives back; committed_size is the size")
def _(client):
    blob = os.urandom(3 << 20)
    assert client.write(client.upload_name(wire.digest(blob)), blob, chunk=64 << 10) == len(blob)
    assert client.read(read_name(client, wire.digest(blob))) == blob


@check("stream-large", "OURS", "30 MiB, which fits no single message")
def _(client):
    blob = os.urandom(1 << 20) * 30
    assert client.write(client.upload_name(wire.digest(blob)), blob) == len(blob)
    assert client.read(read_name(client, wire.digest(blob))) == blob


@check("stream-many-small-chunks", "MUST", "chunks of any size are taken, also empty ones")
def _(client):
    blob = wire.unique()
    name = client.upload_name(wire.digest(blob))
    requests = [bs.WriteRequest(resource_name=name)]
    requests += [bs.WriteRequest(write_offset=i, data=blob[i : i + 1]) for i in range(len(blob))]
    requests += [bs.WriteRequest(write_offset=len(blob), finish_write=True)]
    assert raw_write(client, *requests).committed_size == len(blob)
    assert client.read(read_name(client, wire.digest(blob))) == blob


@check("stream-read-offset", "MUST", "read_offset skips that many bytes")
def _(client):
    blob, wanted = stored(client)
    assert client.read(read_name(client, wanted), offset=1234) == blob[1234:]


@check("stream-read-limit", "MUST", "read_limit bounds what comes")
def _(client):
    blob, wanted = stored(client)
    assert client.read(read_name(client, wanted), offset=100, limit=77) == blob[100:177]
    assert client.read(read_name(client, wanted), offset=4990, limit=77) == blob[4990:]


@check("stream-read-at-end", "MUST", "read_offset at the very end is no error")
def _(client):
    _blob, wanted = stored(client)
    assert client.read(read_name(client, wanted), offset=5000) == b""


@check("stream-read-past-end", "MUST", "read_offset past the end: OUT_OF_RANGE")
def _(client):
    _blob, wanted = stored(client)
    refused(lambda: client.read(read_name(client, wanted), offset=5001), RANGE)


@check("stream-read-negative-offset", "MUST", "a negative read_offset: OUT_OF_RANGE (or INVALID_ARGUMENT)")
def _(client):
    _blob, wanted = stored(client)
    refused(lambda: client.read(read_name(client, wanted), offset=-1), RANGE, INVALID)


@check("stream-read-negative-limit", "MUST", "a negative read_limit: an error")
def _(client):
    _blob, wanted = stored(client)
    refused(lambda: client.read(read_name(client, wanted), limit=-1), INVALID, RANGE)


@check("stream-read-empty", "MUST", "the empty blob can always be read")
def _(client):
    assert client.read(read_name(client, wire.digest(b""))) == b""


@check("stream-read-missing", "MUST", "an unknown blob: NOT_FOUND")
def _(client):
    refused(lambda: client.read(read_name(client, wire.digest(wire.unique()))), NOT_FOUND)


@check("stream-read-other-size", "MUST", "a stored hash with another size is not served")
def _(client):
    _blob, wanted = stored(client)
    wanted.size_bytes += 1
    refused(lambda: client.read(read_name(client, wanted)), NOT_FOUND, INVALID)


@check("stream-read-trailing-metadata", "SHOULD", "anything after the size of a Read name is refused or ignored, no crash")
def _(client):
    blob, wanted = stored(client)
    status_code, answer = wire.code_of(lambda: client.read(read_name(client, wanted) + "/file.txt"))
    assert status_code in (INVALID, NOT_FOUND) or (status_code == OK and answer == blob), status_code


def bad_read(name, text):
    @check(f"stream-read-name-{name}", "MUST", "a resource name that is none: INVALID_ARGUMENT")
    def _(client):
        refused(lambda: client.read(text), INVALID, NOT_FOUND)


HASH = "a" * 64
bad_read("empty", "")
bad_read("words", "not/a/name")
bad_read("no-size", f"blobs/{HASH}")
bad_read("size-no-number", f"blobs/{HASH}/many")
bad_read("negative-size", f"blobs/{HASH}/-3")
bad_read("huge-size", f"blobs/{HASH}/99999999999999999999999")
bad_read("short-hash", "blobs/abc/3")
bad_read("dots", "blobs/../../../../etc/passwd/3")


def bad_write(name, text):
    @check(f"stream-write-name-{name}", "MUST", "a resource name that is none: INVALID_ARGUMENT")
    def _(client):
        refused(lambda: client.write(text, b"abc"), INVALID, NOT_FOUND)


bad_write("empty", "")
bad_write("read-name", f"blobs/{HASH}/3")
bad_write("no-uuid", f"uploads/blobs/{HASH}/3")
bad_write("upper-case", f"uploads/0e5e2b5c-3f0e-4f2c-9d51-6f6a7f4f4b1a/blobs/{'A' * 64}/3")
bad_write("size-no-number", f"uploads/0e5e2b5c-3f0e-4f2c-9d51-6f6a7f4f4b1a/blobs/{HASH}/three")


@check("stream-write-metadata-tail", "MUST", "a Write name may end in metadata, which may hold anything")
def _(client):
    blob = wire.unique()
    name = client.upload_name(wire.digest(blob), tail="/some/file name/blobs/uploads/x")
    assert client.write(name, blob) == len(blob)
    assert client.missing(wire.digest(blob)) == []


@check("stream-write-empty-blob", "MUST", "uploading the empty blob is no error")
def _(client):
    assert client.write(client.upload_name(wire.digest(b"")), b"") == 0


@check("stream-write-duplicate", "MUST", "a blob that is there ends the upload early, with its full size")
def _(client):
    blob, wanted = stored(client, 200_000)
    assert client.write(client.upload_name(wanted), blob, chunk=1000) == len(blob)


@check("stream-write-wrong-hash", "MUST", "data that does not have the digest: INVALID_ARGUMENT, nothing is stored")
def _(client):
    blob = wire.unique()
    wrong = wire.digest(blob[::-1])
    refused(lambda: client.write(client.upload_name(wrong), blob), INVALID)
    assert client.missing(wrong)


@check("stream-write-too-short", "MUST", "fewer bytes than the name says, and finish_write: INVALID_ARGUMENT")
def _(client):
    blob = wire.unique()
    refused(lambda: client.write(client.upload_name(wire.digest(blob)), blob[:-1]), INVALID)
    assert client.missing(wire.digest(blob))


@check("stream-write-too-long", "MUST", "more bytes than the name says: INVALID_ARGUMENT")
def _(client):
    blob = wire.unique()
    refused(lambda: client.write(client.upload_name(wire.digest(blob)), blob + b"x"), INVALID)


@check("stream-write-gap", "MUST", "write_offset must be where the last request ended: INVALID_ARGUMENT")
def _(client):
    blob = wire.unique()
    name = client.upload_name(wire.digest(blob))
    first = bs.WriteRequest(resource_name=name, data=blob[:5])
    second = bs.WriteRequest(write_offset=7, data=blob[7:], finish_write=True)
    refused(lambda: raw_write(client, first, second), INVALID, RANGE)
    assert client.missing(wire.digest(blob))


@check("stream-write-name-changes", "MUST", "a later request with another resource name: INVALID_ARGUMENT")
def _(client):
    blob = wire.unique()
    first = bs.WriteRequest(resource_name=client.upload_name(wire.digest(blob)), data=blob[:5])
    other = client.upload_name(wire.digest(wire.unique()))
    second = bs.WriteRequest(resource_name=other, write_offset=5, data=blob[5:], finish_write=True)
    refused(lambda: raw_write(client, first, second), INVALID)


@check("stream-write-unfinished", "MUST", "a blob whose upload was not finished is not there")
def _(client):
    blob = os.urandom(10_000)
    wire.code_of(lambda: client.write(client.upload_name(wire.digest(blob)), blob[:5000], finish=False))
    assert client.missing(wire.digest(blob))


@check("stream-write-after-abandoned", "MUST", "an upload that somebody left does not stand in the way of the next")
def _(client):
    blob = os.urandom(10_000)
    wire.code_of(lambda: client.write(client.upload_name(wire.digest(blob)), blob[:5000], finish=False))
    assert client.write(client.upload_name(wire.digest(blob)), blob) == len(blob)


@check("stream-write-no-request", "OURS", "a Write without any request is answered with an error, not with silence")
def _(client):
    code, _answer = wire.code_of(lambda: raw_write(client))
    assert code not in (OK, grpc.StatusCode.DEADLINE_EXCEEDED), code


@check("stream-write-concurrent", "MUST", "eight uploads of one blob at once all succeed")
def _(client):
    blob = os.urandom(500_000)

    def upload(_unused):
        return client.write(client.upload_name(wire.digest(blob)), blob, chunk=10_000)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        assert set(pool.map(upload, range(8))) == {len(blob)}
    assert client.read(read_name(client, wire.digest(blob))) == blob


@check("stream-status-complete", "SHOULD", "QueryWriteStatus of a stored blob: complete, with its size")
def _(client):
    blob = wire.unique()
    name = client.upload_name(wire.digest(blob))
    client.write(name, blob)
    answer = status(client, name)
    assert answer.complete and answer.committed_size == len(blob), answer


@check("stream-status-unknown", "MUST", "QueryWriteStatus of an upload nobody began: NOT_FOUND, or nothing committed")
def _(client):
    code, answer = wire.code_of(lambda: status(client, client.upload_name(wire.digest(wire.unique()))))
    assert code == NOT_FOUND or (code == OK and not answer.complete and answer.committed_size == 0), code


@check("stream-header-mismatch", "MUST", "the header resource-name, if set, equals the request's name: INVALID_ARGUMENT")
def _(client):
    _blob, wanted = stored(client)
    key = "build.bazel.remote.execution.v2.resource-name"
    name = read_name(client, wanted)
    assert client.read(name, metadata=[(key, name)])
    refused(lambda: client.read(name, metadata=[(key, name + "0")]), INVALID)


# --- compressed --------------------------------------------------------------------------------------------------------


def needs_zstd(client):
    if re.Compressor.ZSTD not in client.capabilities().cache_capabilities.supported_compressors:
        raise Skip("ZSTD is not advertised")


ZSTD = "compressed-blobs/zstd"


def unpacked(data):
    return zstandard.ZstdDecompressor().decompressobj().decompress(data) if data else b""


@check("zstd-write-then-read-plain", "MUST", "a compressed upload is the blob that its digest names")
def _(client):
    needs_zstd(client)
    blob = wire.unique() * 1000
    packed = zstandard.compress(blob)
    committed = client.write(client.upload_name(wire.digest(blob), ZSTD), packed, chunk=100)
    assert committed in (len(packed), -1), committed
    assert client.read(read_name(client, wire.digest(blob))) == blob


@check("zstd-read", "MUST", "every blob can be read compressed")
def _(client):
    needs_zstd(client)
    blob = wire.unique() * 1000
    assert unpacked(client.read(read_name(client, client.put(blob), ZSTD))) == blob


@check("zstd-read-incompressible", "MUST", "also one that does not get smaller")
def _(client):
    needs_zstd(client)
    blob, wanted = stored(client, 300_000)
    assert unpacked(client.read(read_name(client, wanted, ZSTD))) == blob


@check("zstd-read-empty", "MUST", "also the empty one")
def _(client):
    needs_zstd(client)
    assert unpacked(client.read(read_name(client, wire.digest(b""), ZSTD))) == b""


@check("zstd-read-offset", "MUST", "read_offset of a compressed read counts uncompressed bytes")
def _(client):
    needs_zstd(client)
    blob, wanted = stored(client, 100_000)
    assert unpacked(client.read(read_name(client, wanted, ZSTD), offset=33_333)) == blob[33_333:]


@check("zstd-read-limit", "MUST", "read_limit of a compressed read: INVALID_ARGUMENT")
def _(client):
    needs_zstd(client)
    _blob, wanted = stored(client)
    refused(lambda: client.read(read_name(client, wanted, ZSTD), limit=10), INVALID)


@check("zstd-read-missing", "MUST", "an unknown blob: NOT_FOUND")
def _(client):
    needs_zstd(client)
    refused(lambda: client.read(read_name(client, wire.digest(wire.unique()), ZSTD)), NOT_FOUND)


@check("zstd-write-duplicate", "MUST", "a duplicate compressed upload: committed_size -1, or the compressed length")
def _(client):
    needs_zstd(client)
    blob = wire.unique() * 1000
    packed = zstandard.compress(blob)
    client.put(blob)
    committed = client.write(client.upload_name(wire.digest(blob), ZSTD), packed)
    assert committed in (-1, len(packed)), committed


@check("zstd-write-garbage", "MUST", "what does not decompress: INVALID_ARGUMENT, nothing is stored")
def _(client):
    needs_zstd(client)
    blob = wire.unique()
    refused(lambda: client.write(client.upload_name(wire.digest(blob), ZSTD), os.urandom(300)), INVALID)
    assert client.missing(wire.digest(blob))


@check("zstd-write-truncated", "MUST", "a frame that ends early: INVALID_ARGUMENT")
def _(client):
    needs_zstd(client)
    blob = os.urandom(50_000)
    packed = zstandard.compress(blob)
    refused(lambda: client.write(client.upload_name(wire.digest(blob), ZSTD), packed[:-100]), INVALID)
    assert client.missing(wire.digest(blob))


@check("zstd-write-wrong-hash", "MUST", "hash and size are verified after decompression: INVALID_ARGUMENT")
def _(client):
    needs_zstd(client)
    blob = wire.unique() * 10
    wrong = wire.digest(blob[::-1])
    refused(lambda: client.write(client.upload_name(wrong, ZSTD), zstandard.compress(blob)), INVALID)
    assert client.missing(wrong)


@check("zstd-write-bomb", "OURS", "a frame of far more bytes than its name says ends early: INVALID_ARGUMENT")
def _(client):
    needs_zstd(client)
    wanted = wire.digest(wire.unique())
    packed = zstandard.compress(bytes(512 << 20), level=3)
    refused(lambda: client.write(client.upload_name(wanted, ZSTD), packed), INVALID)


@check("compressor-unknown", "MUST", "a compressor that is not advertised is refused")
def _(client):
    _blob, wanted = stored(client)
    codes = (INVALID, NOT_FOUND, grpc.StatusCode.UNIMPLEMENTED)
    refused(lambda: client.read(read_name(client, wanted, "compressed-blobs/lzma")), *codes)
