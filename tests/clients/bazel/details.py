"""What Bazel's log of its calls says of who made the results: details.py GRPC-LOG

The server's ExecutionDetails are in the responses as they came, so that they are found by the name of their type.
Prints one object of JSON: `results`, how many are `by_workers`, `workers` (number: requests served), and for the others
why there was no worker (`one_shot`).
"""
import json
import sys

TYPE = b"type.googleapis.com/fulgurite.v1.ExecutionDetails"
PERSISTENT_WORKER, ONE_SHOT_BECAUSE = 6, 7
NUMBER, REQUEST = 1, 4


def varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(data):
    """Number and value of every field: an integer, or bytes."""
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        kind = tag & 7
        if kind == 0:
            value, at = varint(data, at)
        else:
            size, at = varint(data, at) if kind == 2 else ({1: 8, 5: 4}[kind], at)
            value, at = data[at:at + size], at + size
        yield tag >> 3, value


def details(log):
    """The messages of the type: in an Any, the value comes right after the name."""
    at = log.find(TYPE)
    while at >= 0:
        at += len(TYPE)
        # An Any without a value is a message with nothing in it.
        if log[at:at + 1] == b"\x12":
            size, begin = varint(log, at + 1)
            yield dict(fields(log[begin:begin + size]))
        at = log.find(TYPE, at)


def main(path):
    with open(path, "rb") as file:
        log = file.read()
    served, alone, results = {}, [], 0
    for found in details(log):
        results += 1
        if PERSISTENT_WORKER in found:
            worker = dict(fields(found[PERSISTENT_WORKER]))
            served.setdefault(worker[NUMBER], set()).add(worker[REQUEST])
        else:
            alone.append(found.get(ONE_SHOT_BECAUSE, b"").decode())
    by_workers = {str(number): len(requests) for number, requests in sorted(served.items())}
    made = sum(by_workers.values())
    print(json.dumps({"results": results, "by_workers": made, "workers": by_workers, "one_shot": alone}))


main(sys.argv[1])
