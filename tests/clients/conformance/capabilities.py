"""What GetCapabilities must say."""
from rules import Skip, check
from wire import re


def version(semver):
    return (semver.major, semver.minor)


@check("capabilities-versions-ordered", "MUST", "low_api_version <= high_api_version, both set")
def _(client):
    answer = client.capabilities()
    low, high = version(answer.low_api_version), version(answer.high_api_version)
    assert (2, 0) <= low <= high, f"{low} to {high}"


@check("capabilities-speaks-2.0", "OURS", "Bazel up to 4 speaks 2.0 only and refuses a server whose range lacks it")
def _(client):
    lowest = version(client.capabilities().low_api_version)
    assert lowest <= (2, 0), f"lowest is {lowest}"


@check("capabilities-speaks-2.3", "OURS", "arguments[0] relative to the working directory came with 2.3")
def _(client):
    assert version(client.capabilities().high_api_version) >= (2, 3)


@check("capabilities-exec-enabled", "MUST", "exec_enabled, else Bazel says that execution is not supported")
def _(client):
    assert client.capabilities().execution_capabilities.exec_enabled


@check("capabilities-legacy-digest-function", "MUST", "execution digest_function is not UNKNOWN; older Bazels need SHA256")
def _(client):
    assert client.capabilities().execution_capabilities.digest_function == re.DigestFunction.SHA256


@check("capabilities-sha256-in-cache-list", "MUST", "cache_capabilities.digest_functions has the client's function")
def _(client):
    assert re.DigestFunction.SHA256 in client.capabilities().cache_capabilities.digest_functions


@check("capabilities-sha256-in-execution-list", "MUST", "execution_capabilities.digest_functions has it too")
def _(client):
    assert re.DigestFunction.SHA256 in client.capabilities().execution_capabilities.digest_functions


@check("capabilities-symlink-strategy", "MUST", "symlink_absolute_path_strategy is never UNKNOWN")
def _(client):
    strategy = client.capabilities().cache_capabilities.symlink_absolute_path_strategy
    assert strategy != re.SymlinkAbsolutePathStrategy.UNKNOWN


@check("capabilities-update-enabled-told", "SHOULD", "action_cache_update_capabilities is there, so that a client knows")
def _(client):
    assert client.capabilities().cache_capabilities.HasField("action_cache_update_capabilities")


@check("capabilities-batch-limit", "SHOULD", "max_batch_total_size_bytes fits gRPC's message limit of 4 MiB")
def _(client):
    limit = client.capabilities().cache_capabilities.max_batch_total_size_bytes
    assert 0 <= limit <= 4 << 20, limit


@check("capabilities-zstd", "OURS", "ZSTD is listed: Bazel's --remote_cache_compression fails without")
def _(client):
    assert re.Compressor.ZSTD in client.capabilities().cache_capabilities.supported_compressors


@check("capabilities-priorities-ordered", "MUST", "min_priority <= max_priority in every range")
def _(client):
    answer = client.capabilities()
    for place in (answer.cache_capabilities.cache_priority_capabilities,
                  answer.execution_capabilities.execution_priority_capabilities):
        for entry in place.priorities:
            assert entry.min_priority <= entry.max_priority, entry


@check("capabilities-node-properties-known", "SHOULD", "supported_node_properties has no empty name and none twice")
def _(client):
    names = list(client.capabilities().execution_capabilities.supported_node_properties)
    assert len(names) == len(set(names)) and all(names), names


@check("capabilities-chunking-consistent", "MUST", "split or splice support comes with the parameters of a function")
def _(client):
    cache = client.capabilities().cache_capabilities
    if not (cache.split_blob_support or cache.splice_blob_support):
        raise Skip("no split, no splice")
    assert cache.HasField("fast_cdc_2020_params") or cache.HasField("rep_max_cdc_params")
