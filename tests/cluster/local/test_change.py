"""The layout is changed by one command at a time."""

from __future__ import annotations

import subprocess
import sys

import pytest

from cluster.local.change import change_layout, layout_turn, tell_supervisor
from cluster.local.folder import Folder
from cluster.local.layout import load, save
from engine.errors import ConfigError
from tests.cluster.control.test_catalog import make_layout

HOLDER = """
import sys
from pathlib import Path
from cluster.local.change import layout_turn
from cluster.local.folder import Folder
with layout_turn(Folder.at(Path(sys.argv[1]))):
    print("mine", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path):
    made = Folder.at(tmp_path)
    made.make()
    save(made.data, make_layout())
    return made


def test_second_command_waits_for_its_turn(folder):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder.data)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"mine\n"
        with pytest.raises(ConfigError, match="another command"), layout_turn(folder, 0.0):
            pytest.fail("two have the turn")
        holder.stdin.close()
        with layout_turn(folder):
            pass
    finally:
        holder.stdin.close()
        holder.stdout.close()
        holder.wait(10)


def test_change_is_saved(folder):
    with layout_turn(folder):
        new = change_layout(folder, lambda layout: layout.with_instance("main", port=99))
    assert load(folder.data) == new
    assert len(new.cluster("main").instances) == 4
    assert not tell_supervisor(folder), "there is none"


def test_change_that_cannot_be_changes_nothing(folder):
    with layout_turn(folder), pytest.raises(ConfigError):
        change_layout(folder, lambda layout: layout.without_instance("main-9"))
    assert load(folder.data) == make_layout()
