-- Refuses a malformed embedding. The text of RAISE must be a literal.
SELECT RAISE(ABORT, {text}) WHERE NEW.{embedding} IS NOT NULL AND NOT (typeof(NEW.{embedding}) = 'blob' AND {length});
