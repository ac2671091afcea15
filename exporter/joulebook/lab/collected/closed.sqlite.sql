-- What is closed stays as it is, and what is on record as a correction too, whoever writes here.

CREATE TRIGGER closing_update BEFORE UPDATE ON closing
WHEN NEW.closed_to < OLD.closed_to
BEGIN SELECT RAISE(ABORT, 'a closed month stays closed'); END;

CREATE TRIGGER closing_delete BEFORE DELETE ON closing
BEGIN SELECT RAISE(ABORT, 'a closed month stays closed'); END;

CREATE TRIGGER periods_update BEFORE UPDATE ON periods
BEGIN SELECT RAISE(ABORT, 'a closed month stays closed'); END;

CREATE TRIGGER periods_delete BEFORE DELETE ON periods
BEGIN SELECT RAISE(ABORT, 'a closed month stays closed'); END;

CREATE TRIGGER transfers_insert BEFORE INSERT ON transfers
WHEN NEW.month <= (SELECT closed_to FROM closing)
    OR EXISTS (SELECT 1 FROM corrections WHERE id = NEW.correction)
BEGIN SELECT RAISE(ABORT, 'the month is closed, or the correction is on record'); END;

CREATE TRIGGER transfers_update BEFORE UPDATE ON transfers
BEGIN SELECT RAISE(ABORT, 'a correction is never changed: make another one'); END;

CREATE TRIGGER transfers_delete BEFORE DELETE ON transfers
BEGIN SELECT RAISE(ABORT, 'a correction is never changed: make another one'); END;

CREATE TRIGGER corrections_insert BEFORE INSERT ON corrections
WHEN NOT EXISTS (SELECT 1 FROM transfers WHERE correction = NEW.id)
    OR EXISTS (SELECT 1 FROM transfers WHERE correction = NEW.id AND month <> NEW.month)
BEGIN SELECT RAISE(ABORT, 'a correction has entries, all of its month'); END;

CREATE TRIGGER corrections_update BEFORE UPDATE ON corrections
BEGIN SELECT RAISE(ABORT, 'a correction is never changed: make another one'); END;

CREATE TRIGGER corrections_delete BEFORE DELETE ON corrections
BEGIN SELECT RAISE(ABORT, 'a correction is never changed: make another one'); END;
