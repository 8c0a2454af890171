"""Continuous backup: the log in an object store, page images to begin from, and restores out of both.

What is archived is final. Only records at or below a VDL are taken, and no recovery truncates those; so
an archive has one history, without the branches that failovers left behind.

    envelope    an object: header, body, checksum; what is not whole is refused
    chunks      a stretch of the log as an object, and the chain that chunks form
    bases       all pages at one LSN, as objects
    stretch     from what storage nodes hold to the next stretch of the log, gap-free
    catalogue   which objects an archive has, and which moments a restore can mean
    keeping     which objects no restore needs any more
    source      what storage nodes say and give, and who of them is believed
    belonging   whether an archive is of this volume's past
    archiver    the process that does it all the time
    restore     a base and the chunks after it to a SQLite file
    verify      every object that a restore might read, before one is needed
"""
