"""Reading SQL from a terminal: history, colours, several lines until a semicolon."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

from prompt_toolkit import PromptSession
from prompt_toolkit.history import FileHistory
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer  # type: ignore[import-untyped]  # it has no stubs


def make_prompt(history: Path) -> Callable[[str], str]:
    """A function that shows a prompt and returns what was typed.

    It raises EOFError at the end of input and KeyboardInterrupt on Ctrl-C.
    """
    session: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)),
        lexer=PygmentsLexer(SqlLexer),
        multiline=True,
        key_bindings=_enter_runs_complete_input(),
        prompt_continuation=lambda width, _line, _wrapped: "… ".rjust(width),
    )
    return session.prompt


def is_complete(text: str) -> bool:
    """Whether Enter should run what has been typed instead of starting a new line."""
    stripped = text.strip()
    if not stripped or stripped.startswith(("\\", ".")) or stripped in ("quit", "exit"):
        return True
    if stripped.rpartition("\n")[2].strip() == "\\q":
        return True  # whoever does not know how to end a statement must be able to leave
    return sqlite3.complete_statement(stripped)


def _enter_runs_complete_input() -> KeyBindings:
    bindings = KeyBindings()

    @bindings.add("enter")
    def _(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if is_complete(buffer.text):
            buffer.validate_and_handle()
        else:
            buffer.insert_text("\n")

    return bindings
