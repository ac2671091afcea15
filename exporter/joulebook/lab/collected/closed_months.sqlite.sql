-- What a bill shows of a closed month stays as it is, whoever writes here.

CREATE TRIGGER month_used_insert BEFORE INSERT ON month_used
WHEN NEW.month <= (SELECT closed_to FROM closing)
BEGIN SELECT RAISE(ABORT, 'the month is closed'); END;

CREATE TRIGGER month_used_update BEFORE UPDATE ON month_used
WHEN min(NEW.month, OLD.month) <= (SELECT closed_to FROM closing)
BEGIN SELECT RAISE(ABORT, 'the month is closed'); END;

CREATE TRIGGER month_used_delete BEFORE DELETE ON month_used
WHEN OLD.month <= (SELECT closed_to FROM closing)
BEGIN SELECT RAISE(ABORT, 'the month is closed'); END;

CREATE TRIGGER month_billed_insert BEFORE INSERT ON month_billed
WHEN NEW.month <= (SELECT closed_to FROM closing)
BEGIN SELECT RAISE(ABORT, 'the month is closed'); END;

CREATE TRIGGER month_billed_update BEFORE UPDATE ON month_billed
WHEN min(NEW.month, OLD.month) <= (SELECT closed_to FROM closing)
BEGIN SELECT RAISE(ABORT, 'the month is closed'); END;

CREATE TRIGGER month_billed_delete BEFORE DELETE ON month_billed
WHEN OLD.month <= (SELECT closed_to FROM closing)
BEGIN SELECT RAISE(ABORT, 'the month is closed'); END;
