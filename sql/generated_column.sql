-- Whether a column is computed from others, so that any update may change it.
SELECT hidden IN (2, 3) FROM pragma_table_xinfo(?1, ?2) WHERE name = ?3 COLLATE NOCASE
