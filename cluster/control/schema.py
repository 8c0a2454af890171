"""The catalog's tables. Open DATA/control/catalog.db with the sqlite3 shell and look."""

from __future__ import annotations

FORMAT = 5
"""PRAGMA user_version of the catalog file."""

_CHANGES = """
-- One member of a group that is being replaced (P18 section 4.1). Until the new one is whole both count.
CREATE TABLE replacements (
    volume INTEGER NOT NULL,
    pg INTEGER NOT NULL,
    old_node TEXT NOT NULL,
    new_node TEXT NOT NULL REFERENCES storage_nodes (name),
    new_incarnation TEXT NOT NULL,
    created INTEGER NOT NULL DEFAULT 0,
    begun_us INTEGER NOT NULL,
    PRIMARY KEY (volume, pg),
    FOREIGN KEY (volume, pg, old_node) REFERENCES members (volume, pg, node)
) WITHOUT ROWID;
-- Storage nodes that are to keep nothing, by an operator's wish.
CREATE TABLE drained (
    node TEXT PRIMARY KEY REFERENCES storage_nodes (name)
) WITHOUT ROWID;
"""

_FORKS = """
-- A volume that was made as a clone of another one, its parent: with the state after one of its commits.
CREATE TABLE forks (
    volume INTEGER PRIMARY KEY REFERENCES volumes,
    parent INTEGER NOT NULL REFERENCES volumes,
    source TEXT NOT NULL,                 -- what the parent's cluster was called
    copy TEXT NOT NULL,                   -- '': it shares pages; or why it is a full copy
    made INTEGER NOT NULL DEFAULT 0,      -- 1: every group stands on a write quorum; 0: nobody opens it
    lsn INTEGER NOT NULL DEFAULT 0,       -- of that commit; 0: it is not chosen yet, or there was none
    time_us INTEGER NOT NULL DEFAULT 0,
    pages INTEGER NOT NULL DEFAULT 0
);
-- Where the groups of a clone begin: at the parent's last LSN in that group at or below the fork.
CREATE TABLE fork_groups (
    volume INTEGER NOT NULL,
    pg INTEGER NOT NULL,
    tail INTEGER NOT NULL,
    PRIMARY KEY (volume, pg),
    FOREIGN KEY (volume, pg) REFERENCES groups
) WITHOUT ROWID;
-- The volumes whose page versions such a group reads where it has none itself, up to an LSN each.
CREATE TABLE ancestors (
    volume INTEGER NOT NULL,
    pg INTEGER NOT NULL,
    place INTEGER NOT NULL,               -- 0: the parent, 1: the parent's parent, and so on
    ancestor INTEGER NOT NULL,
    lsn INTEGER NOT NULL,
    PRIMARY KEY (volume, pg, place),
    FOREIGN KEY (volume, pg) REFERENCES fork_groups
) WITHOUT ROWID;
"""

MIGRATIONS = {
    1: f"""
ALTER TABLE instances ADD COLUMN tier INTEGER NOT NULL DEFAULT 1;
ALTER TABLE instances ADD COLUMN size TEXT NOT NULL DEFAULT 'medium';
{_CHANGES}""",
    2: "ALTER TABLE volumes ADD COLUMN storage_full INTEGER NOT NULL DEFAULT 0;",
    3: """
ALTER TABLE volumes ADD COLUMN deleted INTEGER NOT NULL DEFAULT 0;
ALTER TABLE clusters ADD COLUMN stopped INTEGER NOT NULL DEFAULT 0;
""",
    4: _FORKS,
}
"""From each older format to the next one, in place. The result is what SCHEMA makes."""

SCHEMA = """
-- One number that grows with every change that a cluster's view shows.
CREATE TABLE revision (version INTEGER NOT NULL);
INSERT INTO revision VALUES (0);

CREATE TABLE volumes (
    volume INTEGER PRIMARY KEY,
    epoch INTEGER NOT NULL,               -- of the last writer that was let in; 0: none yet
    max_pages INTEGER NOT NULL,
    storage_full INTEGER NOT NULL DEFAULT 0, -- 1: its writer meets the maximum
    deleted INTEGER NOT NULL DEFAULT 0    -- 1: its groups have no members; who has a segment drops it
);
CREATE TABLE clusters (
    name TEXT PRIMARY KEY,
    volume INTEGER NOT NULL REFERENCES volumes,
    writer TEXT NOT NULL,                 -- the instance that may open the volume
    stopped INTEGER NOT NULL DEFAULT 0    -- 1: it is to have no processes, and nobody opens the volume
);
CREATE TABLE instances (
    name TEXT PRIMARY KEY,
    cluster TEXT NOT NULL REFERENCES clusters (name),
    number INTEGER NOT NULL,
    az TEXT NOT NULL,
    address TEXT NOT NULL,
    socket TEXT NOT NULL,
    pid INTEGER NOT NULL DEFAULT 0,
    tier INTEGER NOT NULL DEFAULT 1,      -- failover prefers the lowest, 0 to 15
    size TEXT NOT NULL DEFAULT 'medium'
);
CREATE TABLE storage_nodes (
    name TEXT PRIMARY KEY,
    az TEXT NOT NULL,
    address TEXT NOT NULL,
    incarnation TEXT NOT NULL DEFAULT '', -- of the disk it last registered with; '': never
    pid INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE groups (
    volume INTEGER NOT NULL REFERENCES volumes,
    pg INTEGER NOT NULL,
    membership_epoch INTEGER NOT NULL,
    PRIMARY KEY (volume, pg)
) WITHOUT ROWID;
CREATE TABLE members (
    volume INTEGER NOT NULL,
    pg INTEGER NOT NULL,
    node TEXT NOT NULL REFERENCES storage_nodes (name),
    incarnation TEXT NOT NULL,            -- the only life of the node that may answer for it
    created INTEGER NOT NULL,             -- 1: the node has said that the segment exists
    PRIMARY KEY (volume, pg, node),
    FOREIGN KEY (volume, pg) REFERENCES groups
) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    time_us INTEGER NOT NULL,
    subject TEXT NOT NULL,
    what TEXT NOT NULL
);
"""
SCHEMA += _CHANGES + _FORKS
