-- How much of the held time tensor cores worked, and the held time for which that is known.
ALTER TABLE postings ADD COLUMN tensor_ns INTEGER NOT NULL DEFAULT 0
    CHECK (typeof(tensor_ns) = 'integer');
ALTER TABLE postings ADD COLUMN tensor_known_ns INTEGER NOT NULL DEFAULT 0
    CHECK (typeof(tensor_known_ns) = 'integer');
