-- Energy of a recorded trace (a demo, a replay) is not measured, and bills and reports say so.

ALTER TABLE meters ADD COLUMN replayed INTEGER NOT NULL DEFAULT 0;

