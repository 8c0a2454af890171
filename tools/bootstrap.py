"""Make .venv and install what a lock file names, with nothing but Python: `make` runs it.

    python3 tools/bootstrap.py run     what a cluster needs   (requirements/run.lock)
    python3 tools/bootstrap.py dev     that and the tools     (requirements/dev.lock)

A fresh Debian has a python3 without pip and without ensurepip, where `python3 -m venv` fails. So the
environment is made without pip, and the pip that installs into it runs from its own wheel, which is
in tools/vendor. pip's configuration holds: PIP_INDEX_URL, PIP_FIND_LINKS, proxies, pip.conf.

Nothing of ours is built: a .pth file leads to this folder, so an edited file counts at once. A record
in the environment says what it was made from; if that still holds, this returns at once. It is
written last, so that an installation which broke off is done again.

This file must be readable by any Python 3, to be able to say that it is too old: hence no newer
syntax, annotations without brackets, and imports that wait for the check.
"""

import argparse
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCKS = ("run", "dev")  # each contains the ones before it, at the same versions

PIP = "pip-26.3-py3-none-any.whl"
PIP_SHA256 = "f3b60b20ffaadd4415ed7957212a38ac63fa4c5fa375bd0f4a797777940fad13"

OLDEST = (3, 11)
NEEDED = ("asyncio", "ctypes", "sqlite3", "ssl", "venv", "zlib")

SCRIPT = """\
#!/bin/sh
'''exec' {python} "$0" "$@"
' '''
import sys
from cluster.cli.app import main
sys.argv[0] = "sextet"
sys.exit(main())
"""  # sh runs the second line and Python skips it: no limit on the path, and spaces may be in it


def main() -> None:
    parser = argparse.ArgumentParser(description="Make .venv and install what a lock file names.")
    parser.add_argument("lock", choices=LOCKS)
    parser.add_argument("--venv", type=Path, default=ROOT / ".venv", metavar="DIR")
    arguments = parser.parse_args()
    check_python()
    Environment(ROOT, arguments.venv.absolute()).ensure(arguments.lock)


def check_python() -> None:
    """Exit with what to install if this Python cannot run Sextet."""
    have = "{}.{}.{}".format(*sys.version_info[:3])
    if sys.version_info < OLDEST:
        wanted = "{}.{}".format(*OLDEST)
        sys.exit(
            f"Sextet needs Python {wanted} or newer, and {sys.executable} is {have}.\n"
            f"Install one (Debian 12 and Ubuntu 24.04: apt install python3; "
            f"Ubuntu 22.04: apt install python{wanted}),\n"
            f"then name it: make PYTHON=python{wanted} up"
        )
    missing = []
    for name in NEEDED:
        try:
            __import__(name)
        except ImportError:
            missing.append(name)
    if missing:
        sys.exit(
            f"{sys.executable} ({have}) lacks parts of its standard library: {', '.join(missing)}.\n"
            "Install the whole of it (Debian and Ubuntu: apt install python3)."
        )


class Environment:
    """The virtual environment in `venv`, for the checkout in `root`."""

    def __init__(self, root: Path, venv: Path) -> None:
        self.root = root
        self.venv = venv
        self.python = venv / "bin" / "python"
        self._record = venv / "sextet.json"

    def ensure(self, lock: str) -> None:
        """Install `lock` unless that was done already."""
        made_from = {"python": sys.version, "place": str(self.venv), "root": str(self.root)}
        record = self._read_record()
        done = record.get("locks", {})
        if any(record.get(key) != value for key, value in made_from.items()):
            done = {}
            if record or not self._is_usable():
                self._create()
        if any(done.get(name) == self._digest(name) for name in LOCKS[LOCKS.index(lock) :]):
            return
        self._record.unlink(missing_ok=True)
        self._install(lock)
        self._link()
        done[lock] = self._digest(lock)
        unnamed = self._record.with_suffix(".new")
        unnamed.write_text(json.dumps({"locks": done, **made_from}, indent=2))
        unnamed.replace(self._record)

    def _read_record(self) -> dict:
        try:
            return json.loads(self._record.read_text())
        except (OSError, ValueError):
            return {}

    def _digest(self, lock: str) -> str:
        files = (self._lock_file(lock), self.root / "pyproject.toml", Path(__file__))
        return hashlib.sha256(b"".join(path.read_bytes() for path in files)).hexdigest()

    def _lock_file(self, lock: str) -> Path:
        return self.root / "requirements" / f"{lock}.lock"

    def _is_usable(self) -> bool:
        """Whether an environment without a record is there and of this Python."""
        if not self.python.exists():
            return False
        code = "import sys; print(sys.version, end='')"
        done = subprocess.run([str(self.python), "-c", code], capture_output=True, text=True)
        return done.stdout == sys.version

    def _create(self) -> None:
        import venv

        if self.venv.is_symlink():  # what is at its other end is another's, and would be deleted
            sys.exit(f"{self.venv} is a link; remove it, or make the environment where it leads")
        if self.venv.exists() and not (self.venv / "pyvenv.cfg").exists():
            sys.exit(f"{self.venv} is there and no virtual environment; move it away")
        print("making {} with Python {}.{}.{}".format(self.venv, *sys.version_info[:3]), flush=True)
        venv.EnvBuilder(clear=True, symlinks=True, with_pip=False).create(self.venv)

    def _install(self, lock: str) -> None:
        file = self._lock_file(lock)
        count = sum("==" in line for line in file.read_text().splitlines())
        print(
            f"installing {count} packages of {file.name} (the first time takes a minute)",
            flush=True,
        )
        arguments = ["--require-hashes", "--no-deps", "--only-binary=:all:", "-r", str(file)]
        if self.pip("install", "--quiet", *arguments) != 0:
            sys.exit(
                f"pip could not install what {file} names; its own words are above.\n"
                "If the package index is out of reach: PIP_INDEX_URL names another one, "
                "PIP_FIND_LINKS a folder of wheels."
            )

    def pip(self, *arguments: str) -> int:
        """Run the pip of tools/vendor in this environment; its exit status."""
        wheel = Path(__file__).resolve().parent / "vendor" / PIP
        if hashlib.sha256(wheel.read_bytes()).hexdigest() != PIP_SHA256:
            sys.exit(f"{wheel} is not the file that was released: restore it from the repository")
        elsewhere = ("PYTHONPATH", "PYTHONHOME", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER")
        environ = {name: value for name, value in os.environ.items() if name not in elsewhere}
        command = [
            str(self.python),
            str(wheel / "pip"),
            "--disable-pip-version-check",
            "--no-input",
        ]
        return subprocess.run([*command, *arguments], env=environ).returncode

    def _link(self) -> None:
        """Make `import engine`, `import cluster` and the command `sextet` lead to the checkout."""
        import tomllib

        site = self.venv / "lib" / "python{}.{}".format(*sys.version_info[:2]) / "site-packages"
        (site / "sextet.pth").write_text(f"{self.root}\n")
        if not list(site.glob("sextet-*.dist-info/RECORD")):  # with one, pip has installed us
            for old in site.glob("sextet-*.dist-info"):
                shutil.rmtree(old)
            version = tomllib.loads((self.root / "pyproject.toml").read_text())["project"][
                "version"
            ]
            info = site / f"sextet-{version}.dist-info"
            info.mkdir()
            head = f"Metadata-Version: 2.1\nName: sextet\nVersion: {version}\n"
            (info / "METADATA").write_text(head)
        script = self.venv / "bin" / "sextet"
        script.write_text(SCRIPT.format(python=shlex.quote(str(self.python))))
        script.chmod(0o755)


if __name__ == "__main__":
    main()
