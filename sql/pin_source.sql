-- Holds the snapshot of a statement that searches. Its first row touches no
-- data, but stepping to it opens a read transaction on every schema that the
-- source reads; preparing it asks the caller's authorizer for the two columns.
SELECT NULL, NULL UNION ALL SELECT {id}, {embedding} FROM {source} AS s
