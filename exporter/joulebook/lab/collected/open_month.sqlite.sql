-- What is in {table} of a closed month stays as it is, whoever writes here.

CREATE TRIGGER {table}_insert BEFORE INSERT ON {table}
WHEN NEW.month <= (SELECT closed_to FROM closing)
BEGIN SELECT RAISE(ABORT, 'the month is closed'); END;

CREATE TRIGGER {table}_update BEFORE UPDATE ON {table}
WHEN min(NEW.month, OLD.month) <= (SELECT closed_to FROM closing)
BEGIN SELECT RAISE(ABORT, 'the month is closed'); END;

CREATE TRIGGER {table}_delete BEFORE DELETE ON {table}
WHEN OLD.month <= (SELECT closed_to FROM closing)
BEGIN SELECT RAISE(ABORT, 'the month is closed'); END;
