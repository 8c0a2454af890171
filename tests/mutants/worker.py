"""One process that runs the simulator's seeds with one mutant in place: `python -m ... NAME` or `-`.

A seed per line comes in, or the path of a saved plan; a JSON line goes out. Every one runs in a forked
child of its own, so that one that never ends, or eats the memory, ends alone.
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from tests.mutants.mutant import install
from tests.mutants.registry import by_name

SEED_S = 240.0
"""Wall seconds of one seed, after which it counts as hanging; a usual one takes a few."""

MESSAGE_MAX = 800


def main(name: str) -> None:
    if name != "-":
        install(by_name(name))
    # Only now, so that they import what is mutated.
    from cluster.sim.run import run
    from cluster.sim.schedule import load
    from cluster.sim.swarm import draw

    logging.disable(logging.CRITICAL)

    def one(what: str) -> dict[str, Any]:
        result = run(draw(int(what)) if what.isdecimal() else load(Path(what)).plan)
        first = result.violations[:1]
        return {
            "kinds": sorted({f"{v.checker}/{v.kind}" for v in result.violations}),
            "message": str(first[0])[:MESSAGE_MAX] if first else "",
        }

    for line in sys.stdin:
        print(json.dumps(_in_child(one, line.strip())), flush=True)


def _in_child(one: Any, what: str) -> dict[str, Any]:
    began = time.perf_counter()
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(readable)
        try:
            answer = one(what)
        except BaseException as error:
            answer = {
                "kinds": [f"crash/{type(error).__name__}"],
                "message": traceback.format_exc()[-MESSAGE_MAX:],
            }
        data = json.dumps(answer).encode()
        while data:
            data = data[os.write(writable, data) :]
        os._exit(0)
    os.close(writable)
    data = b""
    deadline = time.monotonic() + SEED_S
    while True:
        ready, _, _ = select.select([readable], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            os.kill(pid, signal.SIGKILL)
            data = json.dumps({"kinds": ["run/hangs"], "message": f"over {SEED_S:.0f} s"}).encode()
            break
        chunk = os.read(readable, 65536)
        if not chunk:
            break
        data += chunk
    os.close(readable)
    _, status = os.waitpid(pid, 0)
    if not data:
        data = json.dumps({"kinds": ["crash/child"], "message": f"status {status}"}).encode()
    return {"seed": what, "wall_s": time.perf_counter() - began, **json.loads(data)}


if __name__ == "__main__":
    main(sys.argv[1])
