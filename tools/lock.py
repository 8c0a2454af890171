"""Resolve pyproject.toml into requirements/*.lock for every platform, with hashes: `make lock`.

Versions that are locked already stay unless --upgrade is given. dev.lock takes run.lock as a
constraint, so that tests run against the very versions that users get.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bootstrap import ROOT, Environment

UV = "uv>=0.9"


def find_uv(folder: Path) -> str:
    """uv's path; installs it into `folder` where there is none."""
    found = shutil.which("uv")
    if found is None:
        here = Environment(ROOT, Path(sys.prefix))
        if here.pip("install", "--quiet", "--target", str(folder), UV) != 0:
            sys.exit("uv, which resolves the locks, cannot be installed; pip's words are above")
        found = str(folder / "bin" / "uv")
    return found


def compile_lock(uv: str, name: str, *options: str) -> None:
    command = [uv, "pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-annotate"]
    command += ["--no-emit-index-url", "--python-version", "3.11"]
    command += ["--output-file", f"requirements/{name}.lock", *options, "pyproject.toml"]
    environ = os.environ | {"UV_CUSTOM_COMPILE_COMMAND": "make lock"}
    subprocess.run(command, cwd=ROOT, env=environ, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Resolve pyproject.toml into requirements/*.lock.")
    parser.add_argument("--upgrade", action="store_true", help="to the newest versions allowed")
    upgrade = ["--upgrade"] if parser.parse_args().upgrade else []
    with tempfile.TemporaryDirectory() as folder:
        uv = find_uv(Path(folder))
        compile_lock(uv, "run", *upgrade)
        compile_lock(
            uv, "dev", "--extra", "dev", "--constraints", "requirements/run.lock", *upgrade
        )


if __name__ == "__main__":
    main()
