"""FindMissingBlobs, BatchUpdateBlobs, BatchReadBlobs."""
import os

import wire
import zstandard
from rules import INVALID, NOT_FOUND, Skip, check, refused
from wire import grpc, re


def code(response):
    return wire.CODES[response.status.code]


@check("missing-tells-unknown-only", "MUST", "FindMissingBlobs names what is not there, and nothing else")
def _(client):
    known, unknown = client.put(wire.unique()), wire.digest(wire.unique())
    found = [entry.hash for entry in client.missing(known, unknown)]
    assert found == [unknown.hash], found


@check("missing-of-nothing", "MUST", "FindMissingBlobs of no digest answers with none")
def _(client):
    assert client.missing() == []


@check("missing-empty-blob-present", "MUST", "the empty blob is always there")
def _(client):
    assert client.missing(wire.digest(b"")) == []


@check("missing-other-size-is-other-blob", "MUST", "the size is part of a digest: another size is not the stored blob")
def _(client):
    known = client.put(wire.unique())
    status, answer = wire.code_of(lambda: client.missing(re.Digest(hash=known.hash, size_bytes=known.size_bytes + 1)))
    assert status == INVALID or answer, "a digest with a wrong size passes for a stored blob"


@check("missing-many", "OURS", "5,000 digests in one call")
def _(client):
    wanted = [wire.digest(wire.unique()) for _ in range(5000)]
    assert len(client.missing(*wanted)) == 5000


@check("batch-round-trip", "MUST", "what BatchUpdateBlobs took, BatchReadBlobs gives back")
def _(client):
    blobs = [os.urandom(1 + 997 * i) for i in range(20)]
    client.put(*blobs)
    answers = client.read_batch(*[wire.digest(blob) for blob in blobs])
    assert {answer.digest.hash: answer.data for answer in answers} == {wire.digest(b).hash: b for b in blobs}


@check("batch-empty-blob-readable", "MUST", "the empty blob can be read without having been stored")
def _(client):
    answer, = client.read_batch(wire.digest(b""))
    assert code(answer) == grpc.StatusCode.OK and answer.data == b"", code(answer)


@check("batch-empty-blob-writable", "MUST", "uploading the empty blob is no error")
def _(client):
    assert code(client.update((wire.digest(b""), b""))[0]) == grpc.StatusCode.OK


@check("batch-duplicate-upload", "MUST", "a second upload of a blob is no error")
def _(client):
    blob = wire.unique()
    client.put(blob)
    client.put(blob)


@check("batch-wrong-hash", "MUST", "data that does not have the digest: INVALID_ARGUMENT for that blob")
def _(client):
    blob = wire.unique()
    wrong = wire.digest(blob[::-1])
    assert code(client.update((wrong, blob))[0]) == INVALID
    assert client.missing(wrong), "the wrong blob was stored"


@check("batch-wrong-size", "MUST", "a wrong size is rejected, though the hash is right")
def _(client):
    blob = wire.unique()
    wrong = re.Digest(hash=wire.digest(blob).hash, size_bytes=len(blob) + 1)
    status, answer = wire.code_of(lambda: client.update((wrong, blob)))
    assert status == INVALID or code(answer[0]) == INVALID, f"{status.name}"


@check("batch-one-bad-of-three", "MUST", "per-blob errors: the good ones of a batch are stored")
def _(client):
    good, bad, last = wire.unique(), wire.unique(), wire.unique()
    answers = client.update(
        (wire.digest(good), good), (wire.digest(bad[::-1]), bad), (wire.digest(last), last)
    )
    codes = {answer.digest.hash: code(answer) for answer in answers}
    assert codes[wire.digest(good).hash] == codes[wire.digest(last).hash] == grpc.StatusCode.OK, codes
    assert codes[wire.digest(bad[::-1]).hash] == INVALID, codes
    assert client.missing(wire.digest(good), wire.digest(last)) == []


@check("batch-read-missing", "MUST", "BatchReadBlobs of an unknown blob: NOT_FOUND for that blob, the rest is given")
def _(client):
    blob = wire.unique()
    known, unknown = client.put(blob), wire.digest(wire.unique())
    answers = {answer.digest.hash: answer for answer in client.read_batch(known, unknown)}
    assert answers[known.hash].data == blob
    assert code(answers[unknown.hash]) == NOT_FOUND, code(answers[unknown.hash])


@check("batch-read-other-size", "MUST", "a stored hash with another size is not served")
def _(client):
    known = client.put(wire.unique())
    wrong = re.Digest(hash=known.hash, size_bytes=known.size_bytes - 1)
    status, answer = wire.code_of(lambda: client.read_batch(wrong))
    assert status in (INVALID, NOT_FOUND) or code(answer[0]) in (INVALID, NOT_FOUND), status


def malformed(name, **fields):
    @check(f"batch-malformed-digest-{name}", "MUST", "a digest that is none is rejected with INVALID_ARGUMENT")
    def _(client):
        blob = wire.unique()
        wrong = wire.digest(blob)
        for field, change in fields.items():
            setattr(wrong, field, change(getattr(wrong, field)))
        status, answer = wire.code_of(lambda: client.update((wrong, blob)))
        assert status == INVALID or (status == grpc.StatusCode.OK and code(answer[0]) == INVALID), status


malformed("upper-case", hash=lambda text: "ABCDEF" + text[6:].upper())
malformed("short", hash=lambda text: text[:-2])
malformed("empty", hash=lambda text: "")
malformed("not-hexadecimal", hash=lambda text: "z" * len(text))
malformed("path", hash=lambda text: "../../../" + text[9:])
malformed("negative-size", size_bytes=lambda size: -1)


@check("batch-read-over-limit", "MUST", "over max_batch_total_size_bytes: INVALID_ARGUMENT for the call")
def _(client):
    limit = client.capabilities().cache_capabilities.max_batch_total_size_bytes
    if not limit:
        raise Skip("no limit is advertised")
    wanted = []
    for _unused in range(3):
        blob = os.urandom(limit // 2)
        wanted.append(wire.digest(blob))
        client.write(client.upload_name(wanted[-1]), blob)
    refused(lambda: client.read_batch(*wanted), INVALID)


@check("batch-update-over-limit", "MUST", "the same for uploads; gRPC's own limit may come first")
def _(client):
    limit = client.capabilities().cache_capabilities.max_batch_total_size_bytes
    if not limit:
        raise Skip("no limit is advertised")
    blobs = [os.urandom(limit // 2 + 10) for _ in range(2)]
    refused(
        lambda: client.update(*[(wire.digest(blob), blob) for blob in blobs]),
        INVALID,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    )


@check("batch-update-zstd", "MUST", "a compressor that is advertised for batches is taken")
def _(client):
    if re.Compressor.ZSTD not in client.capabilities().cache_capabilities.supported_batch_update_compressors:
        raise Skip("ZSTD is not advertised for batches")
    blob = wire.unique() * 100
    entry = re.BatchUpdateBlobsRequest.Request(
        digest=wire.digest(blob), data=zstandard.compress(blob), compressor=re.Compressor.ZSTD
    )
    request = re.BatchUpdateBlobsRequest(instance_name=client.instance, requests=[entry])
    answer, = client.cas.BatchUpdateBlobs(request, timeout=client.timeout).responses
    assert code(answer) == grpc.StatusCode.OK, answer
    assert client.get(wire.digest(blob)) == blob


@check("batch-update-unknown-compressor", "MUST", "a compressor that is not advertised: INVALID_ARGUMENT")
def _(client):
    blob = wire.unique()
    entry = re.BatchUpdateBlobsRequest.Request(digest=wire.digest(blob), data=blob, compressor=77)
    request = re.BatchUpdateBlobsRequest(instance_name=client.instance, requests=[entry])
    status, answer = wire.code_of(lambda: client.cas.BatchUpdateBlobs(request, timeout=client.timeout))
    assert status == INVALID or code(answer.responses[0]) == INVALID, status


@check("batch-read-plain-if-not-asked", "MUST", "without acceptable_compressors the data comes as it is")
def _(client):
    blob = wire.unique() * 200
    answer, = client.read_batch(client.put(blob))
    assert answer.compressor == re.Compressor.IDENTITY and answer.data == blob


@check("batch-read-acceptable-zstd", "MUST", "with acceptable_compressors the data is in one of them, and says which")
def _(client):
    blob = wire.unique() * 200
    answer, = client.read_batch(client.put(blob), acceptable_compressors=[re.Compressor.ZSTD])
    if answer.compressor == re.Compressor.ZSTD:
        found = zstandard.ZstdDecompressor().decompressobj().decompress(answer.data)
    else:
        assert answer.compressor == re.Compressor.IDENTITY, answer.compressor
        found = answer.data
    assert found == blob
