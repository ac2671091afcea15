-- How much of the held time tensor cores worked, and the held time for which that is known.
ALTER TABLE postings ADD COLUMN tensor_ns BIGINT NOT NULL DEFAULT 0;

ALTER TABLE postings ADD COLUMN tensor_known_ns BIGINT NOT NULL DEFAULT 0;
