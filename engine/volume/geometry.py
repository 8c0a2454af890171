"""Where a page lives: protection groups of PAGES_PER_PG pages, one after another."""

from __future__ import annotations

from engine.types import PAGE_SIZE, PAGES_PER_PG, PageNo, PgNo


def pg_of(page: PageNo) -> PgNo:
    """The protection group that keeps `page`."""
    return page // PAGES_PER_PG


def first_page(pg: PgNo) -> PageNo:
    return pg * PAGES_PER_PG


def pgs_for(pages: int) -> int:
    """How many protection groups a volume of `pages` pages needs."""
    return -(-pages // PAGES_PER_PG)


def max_pages_for(max_bytes: int) -> int:
    """Pages that fit into `max_bytes`, whole protection groups, at least one."""
    return max(1, max_bytes // (PAGES_PER_PG * PAGE_SIZE)) * PAGES_PER_PG
