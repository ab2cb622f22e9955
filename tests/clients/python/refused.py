"""What producers of all Python clients share: the kinds, and one JSON line for each.

Arguments: bootstrap servers, the mirror, the other topic."""

import json
import sys
import time

BOOTSTRAP, MIRROR, OTHER = sys.argv[1:4]
KINDS = ["plain", "idempotent", "transactional", "unacknowledged"]


def meet(kind, begin, send, abort, commit):
    """Meets the mirror, then goes on; send gives the error's name and text."""
    started = time.monotonic()
    if kind == "transactional":
        begin()
    error, message = send(MIRROR)
    milliseconds = int((time.monotonic() - started) * 1000)
    after = ""
    try:
        if kind == "transactional":
            abort()
            begin()
        for _ in range(3):
            name, text = send(OTHER)
            after = after or f"{name} {text}".strip()
        if kind == "transactional":
            commit()
    except Exception as failed:
        after = repr(failed)
    told = {"kind": kind, "error": error, "message": message, "milliseconds": milliseconds, "after": after}
    print(json.dumps(told), flush=True)
