"""What one Sextet node does: the log, the volume, the storage node, SQL, and PostgreSQL's protocol.

Life of a write
===============
`UPDATE account SET balance = balance + 1 WHERE id = 7`, from the client to six disks and back.

 1. The endpoint accepted the client's socket and handed it to the writer instance
    (`engine.pgwire.handoff`); the server reads Bind and Execute off it (`engine.pgwire.server`). The
    endpoint keeps a descriptor, to cut the client off if another instance becomes the writer.
 2. `engine.sql.session.Session.execute` sees a statement that writes: it takes the write lock, in
    arrival order, after `engine.volume.writer.VolumeWriter.ready` has let it past back-pressure.
 3. SQLite runs in a greenlet (`engine.sql.bridge.run_sync`). At `engine.sql.vfs.VolumeFile.xLock` its
    read point becomes the newest commit, durable or not: `engine.sql.pool.BufferPool.tip`.
 4. `engine.sql.vfs.VolumeFile.xRead` serves pages from the buffer pool. A miss switches to the event
    loop and back (see the life of a read). It notes the newest change that was read: what is answered
    before the commit waits for that to be durable (`engine.sql.turn.WriteTurn.read_durable`).
 5. At commit SQLite hands over its dirty pages (`engine.sql.vfs.VolumeFile.xWrite`) and sends its last
    fallible signal: `engine.volume.writer.VolumeWriter.reserve` grows the volume or refuses. Page 1 is left
    out if nothing but its change counter is new (`engine.sql.header.keep`).
    A commit that will keep this process busy for seconds is announced (`engine.instance.busy.Busy`).
 6. `engine.volume.writer.VolumeWriter.commit` makes one MTR: for each page an LSN, what moved and
    the byte ranges that differ (`engine.log.diff.diff_page`) and a record
    (`engine.log.frame.encode_record`), deflated if that halves it (`engine.log.changes.deflated`); the
    last one is the CPL. The new versions go into the pool
    (`engine.sql.pool.BufferPool.install`), the lock is free, the next transaction runs. This session
    now waits.
 7. At the end of the loop's turn, or once the batch before is durable if that was not full, all commits
    that gathered become one frame per protection group (`engine.log.frame.build_frame`), told to
    `engine.volume.durability.DurabilityTracker.sent`.
 8. The same bytes go to six storage nodes (`engine.volume.links.NodeLink`) and, once they are durable or
    if there are many of them, to every replica (`engine.instance.feed.Feed`).
 9. A storage node checks epoch, membership and checksums and appends the frame to its log
    (`engine.storage.state.NodeState.take_in`, `engine.storage.wal.Wal.append`); its segment's chain moves
    (`engine.log.chain.Chain.offer`).
10. One fdatasync covers whatever gathered (`engine.storage.wal.Wal.sync`), done by the kernel's own worker
    (`engine.net.datasync.KernelSync`); only then is the SCL acknowledged
    (`engine.storage.appending.serve_append`).
11. An ack counts if it names the membership epoch that the writer knows (`engine.volume.links.NodeLink`);
    `engine.volume.durability.DurabilityTracker.acked` takes it in, in the place of what that node said
    before, and the node hears so with the next request. With the fourth of six (of both sixes
    while a member is replaced, `engine.volume.quorum.write_quorum`) the group's PGCL moves, VCL follows,
    and VDL becomes the newest CPL at or below it.
12. Everyone waiting at or below VDL is released (`engine.volume.writer.VolumeWriter.wait_durable`); readers
    that begin now see the commit (`engine.sql.pool.BufferPool.set_visible`); the client gets its answer.
    Of a transaction that came whole the earlier answers were kept until they might be told, too
    (`engine.sql.session.Session.answer_later`, `engine.pgwire.wire.Wire.flush`).
13. Later, in the background: gossip fills gaps (`engine.storage.gossip.Gossiper`), redo becomes page
    versions (`engine.storage.coalesce.Coalescer`), checksums are verified
    (`engine.storage.scrub.Scrubber`).

Life of a read
==============
`SELECT balance FROM account WHERE id = 7` on a replica.

 1. The replica has applied every MTR up to some VDL (`engine.instance.replica.Replica`), and only to
    pages it has cached.
 2. `engine.sql.session.Session.execute` runs SQLite in a greenlet; at `engine.sql.vfs.VolumeFile.xLock` the
    read point is pinned there (`engine.sql.pool.BufferPool.pin`). It holds back garbage collection. A
    session that wants strong reads first waits for what the writer confirms
    (`engine.instance.commitpoint.CommitPoint`); one that reads the past pins an earlier commit, which the
    writer's `engine.volume.window.HotWindow` keeps from being collected.
 3. `engine.sql.vfs.VolumeFile.xRead` asks the pool for the page as of the read point. Cached: done.
 4. Not cached: `engine.sql.bridge.await_sync` switches to the event loop, which awaits
    `engine.sql.pool.BufferPool.get`; other sessions run meanwhile.
 5. `engine.volume.reader.PageReader.read_pages` knows the group's last LSN at the read point
    (`engine.volume.tails.PgTails.at`) and asks one segment that is complete to it, picked by
    `engine.volume.routing.Router.rank`; a second one if the first is slow.
 6. The storage node takes the newest page version at or below the read point, verifies its checksum
    and applies the records after it (`engine.storage.reading.page_images`).
 7. The greenlet goes on with the page. At the end of the transaction the read point is unpinned
    (`engine.sql.pool.BufferPool.unpin`).

`tests/test_docs.py` checks that every name on this page exists.
"""
