"""Generate engine/net/pb from proto/. `make proto` writes, `make check` runs it with --check."""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "engine" / "net" / "pb"


def generate(out: Path) -> None:
    files = sorted(str(p) for p in (ROOT / "proto").rglob("*.proto"))
    args = ["protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}", f"--pyi_out={out}", *files]
    if protoc.main(args) != 0:
        sys.exit("protoc failed; its message is above")
    # protoc writes absolute imports of its own package path; ours lives under engine.net.pb.
    for path in sorted((out / "sextet" / "v1").iterdir()):
        text = path.read_text()
        text = re.sub(r"from sextet\.v1 import", "from engine.net.pb import", text)
        (out / path.name).write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail if the committed code is stale")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        stale = []
        for path in sorted(Path(folder).glob("*_pb2.py*")):
            target = TARGET / path.name
            if not target.exists() or target.read_text() != path.read_text():
                stale.append(path.name)
                if not check:
                    target.write_text(path.read_text())
    if check and stale:
        sys.exit(f"generated code is stale: {', '.join(stale)}; run `make proto`")


if __name__ == "__main__":
    main()
