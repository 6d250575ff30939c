-- Read the parts in order, but for data that none can have: NULL instead.
SELECT part, checksum, CASE WHEN typeof(data) = 'blob' AND length(data) <= ?1 THEN data END FROM {checkpoint} ORDER BY part
