-- The columns of a source, generated ones included.
PRAGMA {schema}.table_xinfo({table})
