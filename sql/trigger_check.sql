-- Refuses a malformed embedding; only a BLOB is not less than x''. NULL passes. The text
-- of RAISE must be a literal.
SELECT RAISE(ABORT, {text}) WHERE NOT (NEW.{embedding} >= x'' AND {length});
