-- Store one setting of a faiss table.
INSERT OR REPLACE INTO {config}(k, v) VALUES (?1, ?2)
