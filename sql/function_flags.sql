-- Whether every function of this name always gives the same for the same arguments
-- (0x800 is SQLITE_DETERMINISTIC). Those of dates count as such, but know "now".
SELECT min(flags & 2048) FROM pragma_function_list WHERE name = ?1 COLLATE NOCASE AND name NOT IN ('date', 'time', 'datetime', 'julianday', 'strftime', 'unixepoch', 'timediff')
