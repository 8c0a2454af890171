"""`python -m benchmarks.determinism` says why a seed has no history."""

from __future__ import annotations

import pytest

from benchmarks import determinism

DIES = """
import sys
print("seed 3 was under way", file=sys.stderr)
sys.exit("seed 3: it broke")
"""


def test_why_a_process_died_is_printed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(determinism, "CHILD", DIES)
    assert determinism.main(["--seeds", "3..4"]) == 1
    printed = capsys.readouterr().out
    assert printed.count("status 1\nseed 3 was under way\nseed 3: it broke\n") == 2
    assert "have one history" not in printed


def test_seeds_with_two_histories_are_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    child = "import os; print(3, 'same'); print(4, os.environ['PYTHONHASHSEED'])"
    monkeypatch.setattr(determinism, "CHILD", child)
    assert determinism.main(["--seeds", "3..4"]) == 1
    printed = capsys.readouterr().out
    assert "seed 4: 1, 2\n1 of 2 seeds have one history" in printed
