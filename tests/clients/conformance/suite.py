"""Runs the checks against a server: suite.py HOST:PORT [--expected FILE] [--only WORD] [--list] [--instance NAME]

One line a check: `ok`, `FAILED name: why`, `SKIP name: why`, `known name: why` (it fails, and the file of expected
failures says why), `NEW-OK name` (that file is out of date, which is a failure too). Exit code 1 if anything is new.
"""
import argparse
import concurrent.futures
import sys
import time
import traceback

import wire
from rules import CHECKS, Skip
import caching  # noqa: F401  (each module adds its checks)
import capabilities  # noqa: F401
import cas  # noqa: F401
import execution  # noqa: F401
import inputs  # noqa: F401
import operations  # noqa: F401
import outputs  # noqa: F401
import stream  # noqa: F401
import trees  # noqa: F401


def first_line(text):
    return text.splitlines()[0][:200] if text else ""


def failed_line():
    return traceback.extract_tb(sys.exc_info()[2])[-1].line


def run(check, address, instance):
    """(verdict, why, seconds). Every check has a channel of its own, so that none can break another's."""
    started = time.monotonic()
    channel = wire.channel(address)
    try:
        check.function(wire.Client(channel, instance))
        verdict = ("ok", "")
    except Skip as skip:
        verdict = ("SKIP", str(skip))
    except wire.grpc.RpcError as error:
        verdict = ("FAILED", f"{error.code().name}: {(error.details() or '')[:200]}")
    except AssertionError as error:
        verdict = ("FAILED", first_line(str(error)) or failed_line())
    except Exception as error:  # A check that is itself broken must not end the others.
        verdict = ("FAILED", f"{type(error).__name__}: {error} in `{failed_line()}`")
    finally:
        channel.close()
    return (*verdict, time.monotonic() - started)


def expectations(path):
    if not path:
        return {}
    with open(path) as file:
        lines = [line.strip() for line in file if line.strip() and not line.startswith("#")]
    return dict(line.split(": ", 1) for line in lines)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("address", nargs="?")
    parser.add_argument("--expected", help="what is known to fail there, one `name: why` a line")
    parser.add_argument("--only", default="", help="only checks whose name has this in it")
    parser.add_argument("--instance", default="")
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--list", action="store_true", help="name the checks, and the rule that each is for")
    parser.add_argument("--slow", action="store_true", help="say how long each took")
    options = parser.parse_args()
    checks = [check for check in CHECKS if options.only in check.name]
    if options.list:
        for check in checks:
            print(f"{check.name}  [{check.strength}] {check.rule}")
        return 0
    if not options.address:
        parser.error("an address is needed")
    expected = expectations(options.expected)
    counts = dict.fromkeys(["ok", "FAILED", "SKIP", "known", "NEW-OK"], 0)
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        futures = [(check, pool.submit(run, check, options.address, options.instance)) for check in checks]
        for check, future in futures:
            verdict, why, took = future.result()
            if check.name in expected and verdict != "SKIP":
                verdict, why = ("known", expected[check.name]) if verdict == "FAILED" else ("NEW-OK", "listed as failing")
            counts[verdict] += 1
            if verdict == "FAILED":
                why += f"  [{check.strength}: {check.rule}]"
            line = f"{verdict} {check.name}" + (f": {why}" if why else "")
            print(line + (f" ({took:.1f} s)" if options.slow else ""), flush=True)
    unknown = sorted(set(expected) - {check.name for check in CHECKS})
    for name in unknown:
        print(f"FAILED {name}: stands in {options.expected}, and is no check")
    bad = counts["FAILED"] + counts["NEW-OK"] + len(unknown)
    print(f"{counts['ok']} passed, {bad} failed, {counts['SKIP']} skipped, {counts['known']} known to fail here")
    return 1 if bad else 0


sys.exit(main())
