-- What the rows of a meter come to here: at the end of a ledger it is what the node's books say.
ALTER TABLE meters ADD COLUMN posted_uj BIGINT NOT NULL DEFAULT 0;

UPDATE meters SET posted_uj =
    (SELECT coalesce(sum(energy_uj), 0) FROM postings WHERE postings.meter = meters.id)
