"""Room for a while: gone afterwards, and gone with the next command if its owner was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from cluster.cli.room import LOCK, room

OWNER = """
import sys
from pathlib import Path
from cluster.cli.room import room
with room(Path(sys.argv[1])) as own:
    (own / "database").write_text("large")
    print(own, flush=True)
    sys.stdin.read()
"""


def test_room_goes_with_the_block(tmp_path: Path) -> None:
    with room(tmp_path) as own:
        (own / "database").write_text("large")
        assert own.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_command_has_left_goes_with_the_next(tmp_path: Path) -> None:
    """And not what one has that lives, or that is just being made; or what is none of ours."""
    owners = [
        subprocess.Popen(
            [sys.executable, "-c", OWNER, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    try:
        assert all(owner.stdout is not None for owner in owners)
        killed, living = (Path(owner.stdout.readline().strip()) for owner in owners if owner.stdout)
        owners[0].send_signal(signal.SIGKILL)
        owners[0].wait()
        assert (killed / "database").exists()
        (tmp_path / "room-new").mkdir()
        (tmp_path / "room-old").mkdir()
        os.utime(tmp_path / "room-old", (0, 0))
        (tmp_path / "other").mkdir()
        with room(tmp_path) as own:
            there = {path.name for path in tmp_path.iterdir()}
            assert there == {living.name, own.name, "room-new", "other"}
        assert (living / "database").read_text() == "large"
        assert (living / LOCK).exists()
    finally:
        for owner in owners:
            owner.kill()
            owner.communicate()
