-- What a bill shows of a closed month stays as it is, whoever writes here.

CREATE TRIGGER month_used_open BEFORE INSERT OR UPDATE OR DELETE ON month_used
FOR EACH ROW EXECUTE FUNCTION joulebook_open_month();

CREATE TRIGGER month_used_kept BEFORE TRUNCATE ON month_used
FOR EACH STATEMENT EXECUTE FUNCTION joulebook_never('a closed month stays closed');

CREATE TRIGGER month_billed_open BEFORE INSERT OR UPDATE OR DELETE ON month_billed
FOR EACH ROW EXECUTE FUNCTION joulebook_open_month();

CREATE TRIGGER month_billed_kept BEFORE TRUNCATE ON month_billed
FOR EACH STATEMENT EXECUTE FUNCTION joulebook_never('a closed month stays closed');
