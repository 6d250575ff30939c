-- Store one part.
INSERT INTO {checkpoint}(part, checksum, data) VALUES (?1, ?2, ?3)
