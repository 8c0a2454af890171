"""The log: records, frames, diffs, chains. Pure: bytes and numbers in, bytes and numbers out."""
