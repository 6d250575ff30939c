-- Logs the rows that a UNIQUE conflict of a new row would replace: REPLACE deletes
-- them without a delete trigger unless recursive_triggers is on.
{name} BEFORE INSERT ON {table} BEGIN {victims}{trim} END
