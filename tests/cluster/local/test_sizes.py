"""Sizes as users write and read them, and what a volume can have."""

from __future__ import annotations

import pytest

from cluster.local.sizes import format_size, parse_size
from engine.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "size"),
    [("512M", 512 * 1024**2), ("10GiB", 10 * 1024**3), ("1.5gb", 1536 * 1024**2)],
)
def test_sizes_as_users_write_them(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "many", "12Q", "-5M", "1M", "infG"])
def test_size_that_cannot_be_is_refused(text):
    with pytest.raises(ConfigError):
        parse_size(text)


def test_no_volume_is_larger_than_sqlite_can_number():
    assert parse_size("16383G") == 16383 * 1024**3
    with pytest.raises(ConfigError, match=r"16T is too large; .* so the most is 16383G"):
        parse_size("16T")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (1023, "1023 B"), (10 * 1024**2, "10.0 MiB"), (3 * 1024**4, "3.0 TiB")],
)
def test_sizes_as_users_read_them(size, text):
    assert format_size(size) == text
