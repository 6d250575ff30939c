-- Any statement does: it is prepared anew where another connection changed the schema.
SELECT 1 FROM {schema}.sqlite_schema LIMIT 0
