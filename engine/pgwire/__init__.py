"""PostgreSQL's wire protocol, version 3: enough for psql, psycopg, asyncpg and pgbench.

`codec` knows bytes and no sockets, `types` values, `infer` the types SQLite does not declare,
`utility` the statements it does not know; `connection` is the conversation, `server` and `handoff`
bring the sockets.
"""
