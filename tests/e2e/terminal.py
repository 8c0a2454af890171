"""A program in a terminal, driven as by hand: type, wait for what appears, with a bound on every wait.

What appears is compared without control sequences: a program that paints its own line (prompt_toolkit)
moves the cursor where others would write a space, so the bytes are not the text.
"""

from __future__ import annotations

import codecs
import fcntl
import os
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping, Sequence

WAIT_S = 30.0
COLUMNS, ROWS = 100, 40
CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"

_CONTROL = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07]*\x07|[=>])")

# A new session gets a controlling terminal only by asking; without one Ctrl-C would signal nobody.
_IN_TERMINAL = (
    "import fcntl, os, sys, termios\n"
    "fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
    "os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """Use it as a context manager: the program is ended with it, whatever happens."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        self._ours, theirs = os.openpty()
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
        self._process = subprocess.Popen(
            [sys.executable, "-c", _IN_TERMINAL, *command],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            # No questions about the cursor's position: nobody would answer.
            env={**environment, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1"},
            start_new_session=True,
        )
        os.close(theirs)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._raw = ""
        self._seen = 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()
        os.close(self._ours)

    @property
    def text(self) -> str:
        """All that has appeared and that no `expect` has taken yet."""
        return _CONTROL.sub("", self._raw)[self._seen :]

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def expect(self, wanted: str) -> str:
        """Wait until `wanted` appears; returns what came before it, and takes both."""
        deadline = time.monotonic() + WAIT_S
        while wanted not in self.text:
            assert self._read(deadline), f"{wanted!r} did not appear; there is:\n{self.text}"
        before = self.text.partition(wanted)[0]
        self._seen += len(before) + len(wanted)
        return before

    def until_running(self) -> None:
        """Until the program has given the terminal back to the system: it reads no keys, it works."""
        deadline = time.monotonic() + WAIT_S
        while not termios.tcgetattr(self._ours)[3] & termios.ISIG:
            assert time.monotonic() < deadline, f"it still reads keys; there is:\n{self.text}"
            self._read(time.monotonic() + 0.02)

    def until_ended(self) -> int:
        """The program's exit status, after all that it wrote has been read."""
        deadline = time.monotonic() + WAIT_S
        while self._read(deadline):
            assert time.monotonic() < deadline, f"it does not end; there is:\n{self.text}"
        return self._process.wait(timeout=max(0.1, deadline - time.monotonic()))

    def _read(self, deadline: float) -> bool:
        """Take in what comes; False at `deadline` and at the end."""
        ready, _, _ = select.select([self._ours], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return False
        try:
            data = os.read(self._ours, 65536)
        except OSError:  # EIO: the other end is closed
            return False
        self._raw += self._decoder.decode(data)
        return bool(data)
