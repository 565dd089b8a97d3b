"""Exits 0 once GetCapabilities is answered: answers.py HOST:PORT SECONDS."""
import sys

import wire


def main():
    channel = wire.channel(sys.argv[1])
    try:
        wire.Client(channel).capabilities(timeout=float(sys.argv[2]), wait_for_ready=True)
    except wire.grpc.RpcError as error:
        print(f"{sys.argv[1]}: {error.code().name}: {error.details()}", file=sys.stderr)
        return 1
    return 0


sys.exit(main())
