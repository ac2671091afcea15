-- What is in {table} of a closed month stays as it is, whoever writes here.

CREATE TRIGGER {table}_open BEFORE INSERT OR UPDATE OR DELETE ON {table}
FOR EACH ROW EXECUTE FUNCTION joulebook_open_month();

CREATE TRIGGER {table}_kept BEFORE TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION joulebook_never('a closed month stays closed');
