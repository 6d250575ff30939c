-- One of the triggers below, in the source's schema.
CREATE TRIGGER {schema}.{body}
