"""An S3 server of somebody else's (moto) as a process of its own, for as long as a `with` block."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.request
from collections.abc import Iterator

BUCKET = "sextet-test"

# It comes and goes as it is told, with what it has. When the test ends, so does standard input.
_SERVER = """
import sys
from moto.server import ThreadedMotoServer
server, port = None, 0
for line in sys.stdin:
    if line == "come\\n":
        server = ThreadedMotoServer("127.0.0.1", port, verbose=False)
        server.start()
        port = server.get_host_and_port()[1]
    else:
        server.stop()
    print(port, flush=True)
"""

_SIGNED = "AWS4-HMAC-SHA256 Credential=key/20260101/us-east-1/s3/aws4_request, Signature=0"
"""That a request means S3; moto looks at no signature."""


class S3Server:
    """Use it in a `with` block; `BUCKET` is there."""

    def __enter__(self) -> S3Server:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self.port = self._told("come")
        self.request("PUT", f"/{BUCKET}")
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._process.stdout.close()

    @property
    def environ(self) -> dict[str, str]:
        """What a user would set."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_REGION": "us-east-1",
        }

    def request(self, method: str, path: str, data: bytes = b"") -> bytes:
        """Without any of what we test."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            method=method,
            data=data,
            headers={"Authorization": _SIGNED},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            found: bytes = answer.read()
            return found

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Nobody listens, and nothing that comes meanwhile arrives later."""
        self._told("go")
        try:
            yield
        finally:
            self._told("come")

    def _told(self, what: str) -> int:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(what, file=self._process.stdin, flush=True)
        return int(self._process.stdout.readline())
