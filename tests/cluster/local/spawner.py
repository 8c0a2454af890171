"""A process that starts others as a supervisor does, for tests: one thread, modules of a folder loaded.

    spawner.py FOLDER ASKED MODULE [ARGUMENT...]

Prints "forked" or "started", then the child's exit status. ASKED is JSON: `signal`, which the child is sent
at once; `thread`, to have another thread before it is started.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from cluster.local.spawn import PYTHON_MODULE, preload, start

folder, asked, module = Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
logging.basicConfig()
sys.path.insert(0, str(folder))
command = (*PYTHON_MODULE, module, *sys.argv[4:])
loaded = preload([command])
if asked.get("thread"):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
signal.signal(signal.SIGTERM, lambda _number, _frame: print("the parent was told", flush=True))
with (folder / "log").open("ab") as output, open(os.devnull) as kept, open(os.devnull) as other:
    assert kept.fileno() < other.fileno()
    child = start(
        command,
        loaded=loaded,
        folder=folder,
        environment={
            "KEPT": str(kept.fileno()),
            "PYTHONPATH": f"{folder}:{os.environ['PYTHONPATH']}",
        },
        output=output,
        passed=[kept.fileno()],
    )
print("started" if isinstance(child, subprocess.Popen) else "forked", flush=True)
if asked.get("signal"):
    child.send_signal(signal.Signals[asked["signal"]])
while (status := child.poll()) is None:
    time.sleep(0.01)
child.send_signal(signal.SIGKILL)  # it is reaped: this must reach nobody
print(status, flush=True)
