-- Anything may have changed: an entry without a row. A log always has one, so that
-- every state of its source has a name.
INSERT INTO {log}(row, tag) VALUES (NULL, random() | 1)
