-- Logs the rows that UPDATE OR REPLACE would replace, if there are any.
{name} BEFORE UPDATE{columns} ON {table} WHEN {found} BEGIN {victims}{cut} END
