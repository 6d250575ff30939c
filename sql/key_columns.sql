-- The columns that may be names of the rowid.
SELECT name FROM pragma_table_xinfo(?1, ?2) WHERE pk
