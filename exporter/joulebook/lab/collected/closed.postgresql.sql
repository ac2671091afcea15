-- What is closed stays as it is, and what is on record as a correction too, whoever writes here.

CREATE FUNCTION joulebook_open_month() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE closed INTEGER;
BEGIN
    SELECT closed_to INTO closed FROM closing FOR SHARE;
    IF (TG_OP <> 'INSERT' AND OLD.month <= closed) OR (TG_OP <> 'DELETE' AND NEW.month <= closed) THEN
        RAISE EXCEPTION 'the month is closed';
    END IF;
    IF TG_OP = 'DELETE' THEN RETURN OLD; END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION joulebook_never() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '%', TG_ARGV[0];
END $$;

CREATE FUNCTION joulebook_forward() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.closed_to < OLD.closed_to THEN
        RAISE EXCEPTION 'a closed month stays closed';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION joulebook_unsealed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT 1 FROM corrections WHERE id = NEW.correction) THEN
        RAISE EXCEPTION 'the correction is on record';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION joulebook_has_entries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM transfers WHERE correction = NEW.id)
        OR EXISTS (SELECT 1 FROM transfers WHERE correction = NEW.id AND month <> NEW.month) THEN
        RAISE EXCEPTION 'a correction has entries, all of its month';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER closing_forward BEFORE UPDATE ON closing
FOR EACH ROW EXECUTE FUNCTION joulebook_forward();

CREATE TRIGGER closing_kept BEFORE DELETE OR TRUNCATE ON closing
FOR EACH STATEMENT EXECUTE FUNCTION joulebook_never('a closed month stays closed');

CREATE TRIGGER periods_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON periods
FOR EACH STATEMENT EXECUTE FUNCTION joulebook_never('a closed month stays closed');

CREATE TRIGGER transfers_open BEFORE INSERT ON transfers
FOR EACH ROW EXECUTE FUNCTION joulebook_open_month();

CREATE TRIGGER transfers_unsealed BEFORE INSERT ON transfers
FOR EACH ROW EXECUTE FUNCTION joulebook_unsealed();

CREATE TRIGGER transfers_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON transfers
FOR EACH STATEMENT EXECUTE FUNCTION joulebook_never('a correction is never changed: make another one');

CREATE TRIGGER corrections_whole BEFORE INSERT ON corrections
FOR EACH ROW EXECUTE FUNCTION joulebook_has_entries();

CREATE TRIGGER corrections_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON corrections
FOR EACH STATEMENT EXECUTE FUNCTION joulebook_never('a correction is never changed: make another one');
