-- Logs the rows that UPDATE OR REPLACE would replace.
{name} BEFORE UPDATE{columns} ON {table} BEGIN {victims}{trim} END
