"""ClickHouse in one process of ours: chDB behind ClickHouse's own HTTP interface.

    __main__   the command line          server      listening, readiness, the end
    interface  ASGI: what a request is   work        what a statement does in its thread
    requests   taking requests apart     answers     headers, errors, encodings
    statements where data begins         formats     chunks into documents      native   blocks of newer protocols
    access     key, loopback, browsers   engine      connections, roles, kinds  sessions what lasts between requests
    config     roles, limits, settings that nobody may change                   process  one owner, end with the parent

What an acknowledged insert survives: its part is a directory of the table that was written and renamed before the answer, so a
killed process loses nothing, and the directory opens again as it was. The files may still be in the system's cache: a power cut
can lose the last seconds unless `FQLSTREAM_STORE__FSYNC=true`, which writes them through first, at some milliseconds each.
"""
