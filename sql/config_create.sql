-- What a faiss table must know without asking its source: a shadow table.
CREATE TABLE {config}(k PRIMARY KEY, v) WITHOUT ROWID
