"""From a page version and the records after it to the next version (P17 §3.2)."""

from __future__ import annotations

from engine.log.diff import apply_diff
from engine.log.record import Change
from engine.types import ZERO_PAGE


def apply_record(image: bytes | None, record: Change) -> bytes:
    """The page after `record`; `image` None means that the page was never written before."""
    return apply_diff(image or ZERO_PAGE, record.full, *record.changes)
