-- Read the parts in order from one on, but for data that none can have: NULL instead.
SELECT part, checksum, CASE WHEN typeof(data) = 'blob' AND length(data) <= ?1 THEN data END FROM {checkpoint} WHERE part >= ?2 ORDER BY part
