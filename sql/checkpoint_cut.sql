-- Before other parts are stored: those from one on, the header, and what has no place before them.
DELETE FROM {checkpoint} WHERE part < 1 OR part >= ?1
