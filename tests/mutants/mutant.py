"""A planted bug: a small edit of one or two modules, put in place in memory when they are imported.

The working tree is never changed. An edit names a text that its module has exactly once; a module that
has moved on makes `mutated` fail, so a mutant never silently becomes the original.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import CodeType, ModuleType


class NotApplicable(Exception):
    """The module is not what the edit was written for."""


@dataclass(frozen=True, slots=True)
class Edit:
    """`old`, which the module's source has exactly once, becomes `new`."""

    module: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class Mutant:
    """One protocol error. `invariant` of docs/architecture.md is at stake, or a rule named there."""

    name: str
    breaks: str
    """The error in a few words, for the table."""
    invariant: str
    edits: tuple[Edit, ...]


def source_of(module: str) -> str:
    """The source of a module as it is in the working tree, without importing it."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise NotApplicable(f"there is no module {module}")
    with open(spec.origin, encoding="utf-8") as file:
        return file.read()


def mutated(source: str, edits: Sequence[Edit]) -> str:
    """`source` with all edits made. Raises NotApplicable."""
    for edit in edits:
        found = source.count(edit.old)
        if found != 1:
            raise NotApplicable(f"{edit.module} has {found} times, not once:\n{edit.old}")
        source = source.replace(edit.old, edit.new)
    return source


def install(mutant: Mutant) -> None:
    """From now on this process imports the mutated modules. To be called before anything has.

    Raises NotApplicable if one of them is imported already, or as `mutated`.
    """
    by_module: dict[str, list[Edit]] = {}
    for edit in mutant.edits:
        by_module.setdefault(edit.module, []).append(edit)
    for module, edits in by_module.items():
        if module in sys.modules:
            raise NotApplicable(f"{module} has been imported before it could be changed")
        mutated(source_of(module), edits)
        if module in sys.modules:
            raise NotApplicable(f"finding {module} imports it")
    sys.meta_path.insert(0, _Finder(by_module))


class _Finder(MetaPathFinder):
    def __init__(self, edits: dict[str, list[Edit]]) -> None:
        self._edits = edits

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        edits = self._edits.get(fullname)
        if edits is None:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is None or spec.origin is None:
            return None
        spec.loader = _Loader(fullname, spec.origin, edits)
        spec.cached = None
        return spec


class _Loader(SourceFileLoader):
    def __init__(self, fullname: str, path: str, edits: Sequence[Edit]) -> None:
        super().__init__(fullname, path)
        self._edits = edits

    def get_code(self, fullname: str) -> CodeType:
        """Compiled here and now: bytecode of the original must be neither read nor overwritten."""
        source = mutated(self.get_data(self.path).decode(), self._edits)
        return compile(source, self.path, "exec", dont_inherit=True)
