-- Whether an embedding is malformed; only a BLOB is not less than x''. NULL is not.
NOT (NEW.{embedding} >= x'' AND {length})
