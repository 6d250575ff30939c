-- Where the approximate index of a faiss table is stored: a shadow table. A missing one is
-- made again when something is to be stored.
CREATE TABLE {unless}{checkpoint}(part INTEGER PRIMARY KEY, checksum INTEGER, data BLOB)
