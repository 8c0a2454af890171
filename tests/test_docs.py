"""Names in the documentation must exist, so that it cannot rot in silence."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

import engine

ROOT = Path(__file__).resolve().parent.parent
PAGES = [
    "docs/architecture.md",
    "docs/faults.md",
    "docs/glossary.md",
    "docs/inspecting.md",
    "docs/measurements.md",
    "docs/read-consistency.md",
    "docs/simulation.md",
    "docs/testing.md",
    "README.md",
    "tests/README.md",
]
NAME = re.compile(r"`((?:engine|cluster)(?:\.\w+)+)`")
PATH = re.compile(r"`?((?:docs|tests|engine|cluster|benchmarks|examples|tools|proto)/[\w./-]+\w)`?")


def resolve(name: str) -> None:
    """Import the longest module in `name`, then follow attributes."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError as error:
            if error.name is not None and ".".join(parts[:cut]).startswith(error.name):
                continue
            raise
        for part in parts[cut:]:
            if inspect.isclass(found) and f"self.{part}" in inspect.getsource(found):
                continue  # an attribute that only instances have
            found = getattr(found, part)
        return
    raise ModuleNotFoundError(name)


def names_in(text: str) -> list[str]:
    return sorted(set(NAME.findall(text)))


@pytest.mark.parametrize("page", PAGES)
def test_every_symbol_on_the_page_exists(page: str) -> None:
    for name in names_in((ROOT / page).read_text()):
        resolve(name)


@pytest.mark.parametrize("page", PAGES)
def test_every_file_on_the_page_exists(page: str) -> None:
    for path in sorted(set(PATH.findall((ROOT / page).read_text()))):
        assert (ROOT / path).exists(), f"{page} names {path}"


def test_life_of_a_write_and_read_name_only_what_exists() -> None:
    names = names_in(engine.__doc__ or "")
    assert len(names) > 30
    for name in names:
        resolve(name)


def test_a_name_that_does_not_exist_is_found() -> None:
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        resolve("engine.log.frame.no_such_thing")
