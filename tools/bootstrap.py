"""Make .venv from a lock file: `python3 tools/bootstrap.py run|dev`. Standard library only.

Works on a fresh Debian or Ubuntu whose python3 comes without ensurepip (no python3-venv package):
then pip's own wheel, of a pinned version and hash, is fetched from the package index and used as it is.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urljoin, urlsplit

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PIP_WHEEL = "pip-26.0.1-py3-none-any.whl"
PIP_SHA256 = "bdb1b08f4274833d62c1aa29e20907365a2ceb950410df15fc9521bad440122b"


def main() -> None:
    if sys.version_info < (3, 11):
        sys.exit(
            f"Sextet needs Python 3.11 or newer, this is {sys.version.split()[0]} "
            f"({sys.executable}).\nInstall one and run: make PYTHON=python3.12 up"
        )
    if len(sys.argv) != 2 or sys.argv[1] not in ("run", "dev"):
        sys.exit("usage: bootstrap.py run|dev")
    lock = ROOT / "requirements" / f"{sys.argv[1]}.lock"
    stamp = VENV / f"installed-{sys.argv[1]}"
    wanted = hashlib.sha256(lock.read_bytes() + sys.version.encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    pip = make_venv()
    print(f"installing from requirements/{lock.name} into .venv ...", flush=True)
    run(*pip, "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "-r", str(lock))
    install_ourselves()
    stamp.write_text(wanted)


def venv_python() -> Path:
    return VENV / "bin" / "python"


def make_venv() -> list[str]:
    """Create .venv if it is not there or is of another Python; returns the command that is its pip."""
    if not is_ours():
        shutil.rmtree(VENV, ignore_errors=True)
        has_pip = importlib.util.find_spec("ensurepip") is not None
        print("making .venv" + ("" if has_pip else " (python3-venv is missing: fetching pip)"), flush=True)
        run(sys.executable, "-m", "venv", *([] if has_pip else ["--without-pip"]), str(VENV))
    python = str(venv_python())
    if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode:
        with tempfile.TemporaryDirectory() as folder:
            wheel = fetch_pip(Path(folder))
            run(python, f"{wheel}/pip", "install", "--quiet", "--no-index", str(wheel))
    return [python, "-m", "pip"]


def is_ours() -> bool:
    if not venv_python().exists():
        return False
    asked = "import sys; print(sys.version_info[:2])"
    found = subprocess.run(
        [str(venv_python()), "-c", asked], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() == str(tuple(sys.version_info[:2]))


def install_ourselves() -> None:
    """The packages of this checkout, importable from where they are, and the `sextet` command."""
    asked = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run(
        [str(venv_python()), "-c", asked], capture_output=True, text=True, check=True
    )
    (Path(found.stdout.strip()) / "sextet-checkout.pth").write_text(f"{ROOT}\n")
    command = VENV / "bin" / "sextet"
    command.write_text(
        f"#!{venv_python()}\nimport sys\n\nfrom cluster.cli.app import main\n\nsys.exit(main())\n"
    )
    command.chmod(0o755)


def run(*command: str) -> None:
    done = subprocess.run(command, check=False)
    if done.returncode:
        sys.exit(f"failed: {' '.join(command)}\nIs there a network, and does pip work here?")


# -- pip without ensurepip


class _Links(HTMLParser):
    """The hrefs of a simple-index page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found += [value for name, value in attrs if tag == "a" and name == "href" and value]


def fetch_pip(folder: Path) -> Path:
    """The pinned wheel, verified."""
    index = os.environ.get("PIP_INDEX_URL", "https://pypi.org/simple").rstrip("/") + "/pip/"
    try:
        page = _Links()
        page.feed(_get(index).decode())
        url = next(
            urljoin(index, link)
            for link in page.found
            if urlsplit(link).path.rsplit("/", 1)[-1] == PIP_WHEEL
        )
        data = _get(url)
    except (urllib.error.URLError, StopIteration, OSError) as error:
        sys.exit(
            f"cannot fetch {PIP_WHEEL} from {index}: {error}\n"
            "Install it by the system instead: sudo apt-get install python3-venv"
        )
    if hashlib.sha256(data).hexdigest() != PIP_SHA256:
        sys.exit(f"{PIP_WHEEL} from {index} does not have the pinned hash; not used")
    wheel = folder / PIP_WHEEL
    wheel.write_bytes(data)
    return wheel


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as reply:
        data: bytes = reply.read()
    return data


if __name__ == "__main__":
    main()
