"""A fork that becomes another program has nothing of ours but what it is given."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.local.components import components_of
from cluster.local.folder import Folder
from cluster.local.spawn import PYTHON_MODULE
from tests.cluster.control.test_catalog import make_layout

SPAWNER = Path(__file__).with_name("spawner.py")
ROOT = Path(__file__).parents[3]


def write_module(folder: Path, body: str, name: str = "child") -> None:
    package = folder / name
    package.mkdir()
    (package / "__init__.py").touch()
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    (package / "__main__.py").write_text(
        f"import json, logging, os, signal, sys, time\n\ndef main():\n{lines}"
    )
    with (package / "__main__.py").open("a") as file:
        file.write("\nif __name__ == '__main__':\n    main()\n")


def spawn(folder: Path, *arguments: str, **asked: object) -> list[str]:
    """What the spawner printed, line by line."""
    done = subprocess.run(
        [sys.executable, str(SPAWNER), str(folder), json.dumps(asked), *(arguments or ("child",))],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def log_of(folder: Path) -> str:
    return (folder / "log").read_text()


SEEN = """
open_ones = []
for fd in range(200):
    try:
        os.fstat(fd)
        open_ones.append(fd)
    except OSError:
        pass
print(json.dumps({
    "descriptors": open_ones,
    "kept": int(os.environ["KEPT"]),
    "variables": sorted(os.environ),
    "folder": os.getcwd(),
    "arguments": sys.argv,
    "input": os.readlink("/proc/self/fd/0"),
    "outputs": [os.readlink(f"/proc/self/fd/{fd}") for fd in (1, 2)],
    "terminates": signal.getsignal(signal.SIGTERM) is signal.SIG_DFL,
    "wakes": signal.set_wakeup_fd(-1),
    "blocked": sorted(signal.pthread_sigmask(signal.SIG_BLOCK, ())),
    "handlers": len(logging.getLogger().handlers),
    "title": open("/proc/self/cmdline").read().replace("\\0", " ").strip(),
    "threads": len(os.listdir("/proc/self/task")),
}))
"""


def test_a_child_has_what_it_is_given_and_nothing_else(tmp_path: Path) -> None:
    write_module(tmp_path, SEEN)
    assert spawn(tmp_path, "child", "--name", "a") == ["forked", "0"]
    seen = json.loads(log_of(tmp_path))
    assert seen["descriptors"] == [0, 1, 2, seen["kept"]]
    assert seen["variables"] == ["KEPT", "PYTHONPATH"]
    assert seen["folder"] == str(tmp_path)
    assert seen["arguments"] == ["child", "--name", "a"]
    assert seen["input"] == os.devnull
    assert seen["outputs"] == [str(tmp_path / "log")] * 2
    assert seen["terminates"]
    assert (seen["wakes"], seen["blocked"], seen["handlers"], seen["threads"]) == (-1, [], 0, 1)
    assert seen["title"] == " ".join((*PYTHON_MODULE, "child", "--name", "a"))


@pytest.mark.parametrize(
    ("body", "status", "told"),
    [
        ("return", 0, ""),
        ("sys.exit(3)", 3, ""),
        ("sys.exit('what is wrong')", 1, "what is wrong\n"),
        ("os.kill(os.getpid(), signal.SIGKILL)", -9, ""),
    ],
)
def test_how_it_ends_is_its_status(tmp_path: Path, body: str, status: int, told: str) -> None:
    write_module(tmp_path, body)
    assert spawn(tmp_path) == ["forked", str(status)]
    assert log_of(tmp_path) == told


def test_what_it_raises_ends_it_and_is_in_its_log(tmp_path: Path) -> None:
    write_module(tmp_path, "raise ValueError('a bug')")
    assert spawn(tmp_path) == ["forked", "1"]
    assert log_of(tmp_path).startswith("Traceback")
    assert "ValueError: a bug" in log_of(tmp_path)


def test_a_signal_right_after_the_start_is_the_childs(tmp_path: Path) -> None:
    write_module(tmp_path, "time.sleep(60)")
    for _ in range(5):
        assert spawn(tmp_path, signal="SIGTERM") == ["forked", "-15"]


def test_what_cannot_be_loaded_is_a_program_of_its_own_and_says_why(tmp_path: Path) -> None:
    write_module(tmp_path, "return")
    (tmp_path / "child" / "__init__.py").write_text("import no_such_module\n")
    assert spawn(tmp_path) == ["started", "1"]
    assert "No module named 'no_such_module'" in log_of(tmp_path)


def test_a_process_with_threads_is_not_forked(tmp_path: Path) -> None:
    write_module(tmp_path, "print('a program of its own')")
    assert spawn(tmp_path, thread=True) == ["started", "0"]
    assert log_of(tmp_path) == "a program of its own\n"


@pytest.mark.parametrize("body", ["print('much')", "sys.exit('why')", "1/0"])
def test_a_log_without_room_does_not_keep_a_child_from_ending(tmp_path: Path, body: str) -> None:
    write_module(tmp_path, body)
    (tmp_path / "log").symlink_to("/dev/full")
    how, status = spawn(tmp_path)
    assert (how, status) == ("forked", "0" if body.startswith("print") else "1")


def test_loading_all_there_is_starts_no_thread_and_opens_nothing(tmp_path: Path) -> None:
    commands = [c.command for c in components_of(Folder.at(tmp_path), make_layout())]
    code = (
        "import json, os, sys\n"
        "from cluster.local.spawn import preload\n"
        "before = set(os.listdir('/proc/self/fd'))\n"
        "loaded = preload(json.loads(sys.argv[1]))\n"
        "after = set(os.listdir('/proc/self/fd'))\n"
        "print(json.dumps([sorted(loaded), len(os.listdir('/proc/self/task')), len(after - before)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(commands)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    loaded, threads, opened = json.loads(done.stdout)
    assert loaded == sorted({command[3] for command in commands})
    assert (threads, opened) == (1, 0)
