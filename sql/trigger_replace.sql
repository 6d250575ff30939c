-- Logs the rows that a UNIQUE conflict of a new row would replace, if there are any:
-- REPLACE deletes them without a delete trigger unless recursive_triggers is on.
{name} BEFORE INSERT ON {table} WHEN {found} BEGIN {victims}{cut} END
