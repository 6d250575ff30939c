-- The change log of a live source. No shadow table: on a defensive connection
-- SQLite refuses triggers that write to those, and so every write to the source.
CREATE TABLE {log}(seq INTEGER PRIMARY KEY, row INTEGER, tag INTEGER)
