-- Counts the changes of a schema, and VACUUM.
PRAGMA {schema}.schema_version
