-- What many nodes' ledgers say, in one place: their rows as they last stood, and the bills made of
-- them. The same text for sqlite and PostgreSQL; every amount is a whole number of 64 bits that the
-- program adds up (SQL of sqlite would go over to floating point in silence).
-- Statements end in a semicolon and an empty line.

-- One line per ledger that ever was: a node that began anew has two. position and rows change in
-- one transaction, so whoever is interrupted goes on where it was.
CREATE TABLE ledgers (
    id INTEGER PRIMARY KEY,
    ledger_id TEXT NOT NULL UNIQUE,     -- the node's own random name for it
    cluster TEXT NOT NULL,
    node TEXT NOT NULL,
    created_s BIGINT NOT NULL,          -- UTC
    position BIGINT NOT NULL,           -- the number up to which all its rows are here
    last_seq BIGINT NOT NULL,           -- the newest number there, when it was last asked
    booked_to_s BIGINT NOT NULL,        -- UTC up to which the node had committed then
    seen_s BIGINT NOT NULL,             -- UTC of the last page
    target TEXT NOT NULL                -- where it was asked
);

CREATE TABLE meters (
    id INTEGER PRIMARY KEY,
    ledger INTEGER NOT NULL REFERENCES ledgers,
    local_id BIGINT NOT NULL,
    component TEXT NOT NULL,
    name TEXT NOT NULL,
    model TEXT NOT NULL,
    booked_uj BIGINT NOT NULL,          -- what the node's books said in all
    expired_uj BIGINT NOT NULL,         -- what of it had left the node for its age
    UNIQUE (ledger, local_id)
);

-- The same for what was charged.
CREATE TABLE charged (
    ledger INTEGER NOT NULL REFERENCES ledgers,
    item TEXT NOT NULL,
    currency TEXT NOT NULL,
    whole BIGINT NOT NULL,
    nano BIGINT NOT NULL,
    rest BIGINT NOT NULL,
    expired_whole BIGINT NOT NULL,
    expired_nano BIGINT NOT NULL,
    expired_rest BIGINT NOT NULL,
    PRIMARY KEY (ledger, item, currency)
);

-- Whom amounts are billed to: an experiment of somebody's, or a remainder ('': none).
CREATE TABLE owners (
    id INTEGER PRIMARY KEY,
    remainder TEXT NOT NULL,
    account TEXT NOT NULL,
    person TEXT NOT NULL,
    experiment TEXT NOT NULL,
    UNIQUE (account, experiment, person, remainder)
);

CREATE TABLE workloads (
    id INTEGER PRIMARY KEY,
    cluster TEXT NOT NULL,
    scheduler TEXT NOT NULL,
    workload TEXT NOT NULL,
    owner INTEGER NOT NULL REFERENCES owners,
    relabelled INTEGER NOT NULL DEFAULT 0,  -- 1: a person said whose it is, nodes do not any more
    UNIQUE (workload, scheduler, cluster)
);

CREATE INDEX workloads_by_owner ON workloads (owner);

-- What each node knows of a workload.
CREATE TABLE facts (
    ledger INTEGER NOT NULL REFERENCES ledgers,
    workload INTEGER NOT NULL REFERENCES workloads,
    display TEXT NOT NULL,
    name TEXT NOT NULL,
    person TEXT NOT NULL,
    account TEXT NOT NULL,
    experiment TEXT NOT NULL,
    started_utc_ns BIGINT,
    ended_utc_ns BIGINT,
    complete INTEGER NOT NULL,
    gpu_count BIGINT NOT NULL,
    evidence TEXT NOT NULL,
    extra TEXT NOT NULL,                -- JSON object of strings
    PRIMARY KEY (workload, ledger)
);

CREATE INDEX facts_by_display ON facts (display);

-- Short names for what many postings and charges have in common.
CREATE TABLE hows (
    id INTEGER PRIMARY KEY,
    remainder TEXT NOT NULL,
    method TEXT NOT NULL,
    evidence TEXT NOT NULL,
    UNIQUE (remainder, method, evidence)
);

CREATE TABLE kinds (
    id INTEGER PRIMARY KEY,
    remainder TEXT NOT NULL,
    item TEXT NOT NULL,
    currency TEXT NOT NULL,
    UNIQUE (remainder, item, currency)
);

CREATE TABLE rates (
    id INTEGER PRIMARY KEY,
    quantity TEXT NOT NULL,
    value BIGINT NOT NULL,
    unit TEXT NOT NULL,
    source TEXT NOT NULL,
    quality TEXT NOT NULL,
    UNIQUE (quantity, value, unit, source, quality)
);

CREATE TABLE postings (
    ledger INTEGER NOT NULL,
    quarter_s BIGINT NOT NULL,          -- UTC start of the quarter hour
    meter INTEGER NOT NULL,
    workload INTEGER NOT NULL,          -- 0: a remainder
    how INTEGER NOT NULL,
    energy_uj BIGINT NOT NULL,
    idle_uj BIGINT NOT NULL,
    held_ns BIGINT NOT NULL,
    PRIMARY KEY (ledger, quarter_s, meter, workload, how)
);

CREATE INDEX postings_by_workload ON postings (workload, quarter_s);

CREATE TABLE charges (
    ledger INTEGER NOT NULL,
    quarter_s BIGINT NOT NULL,
    workload INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    whole BIGINT NOT NULL,
    nano BIGINT NOT NULL,
    rest BIGINT NOT NULL,
    PRIMARY KEY (ledger, quarter_s, workload, kind)
);

CREATE INDEX charges_by_workload ON charges (workload, quarter_s);

CREATE TABLE rates_used (
    ledger INTEGER NOT NULL,
    quarter_s BIGINT NOT NULL,
    rate INTEGER NOT NULL,
    energy_uj BIGINT NOT NULL,
    held_ns BIGINT NOT NULL,
    PRIMARY KEY (ledger, quarter_s, rate)
);

CREATE TABLE gaps (
    ledger INTEGER NOT NULL,
    meter INTEGER NOT NULL,
    reason TEXT NOT NULL,
    t0_utc_ns BIGINT NOT NULL,
    t1_utc_ns BIGINT NOT NULL,
    PRIMARY KEY (ledger, meter, reason, t0_utc_ns)
);

-- Bills: by day what postings and charges come to, by whose they are and in which month they are
-- billed (a number: 202611). A row whose month is not that of its day came after that month was
-- closed. What is not of this month by its day is therefore a late entry, and says of which it is.

CREATE TABLE used (
    ledger INTEGER NOT NULL,
    day_s BIGINT NOT NULL,              -- UTC start of the day it was burnt
    month INTEGER NOT NULL,             -- in which it is billed
    workload INTEGER NOT NULL,          -- 0: a remainder
    owner INTEGER NOT NULL REFERENCES owners,
    component TEXT NOT NULL,
    energy_uj BIGINT NOT NULL,
    idle_uj BIGINT NOT NULL,
    held_ns BIGINT NOT NULL,
    PRIMARY KEY (ledger, day_s, workload, owner, component, month)
);

CREATE INDEX used_by_month ON used (month);

CREATE INDEX used_by_workload ON used (workload);

CREATE TABLE billed (
    ledger INTEGER NOT NULL,
    day_s BIGINT NOT NULL,
    month INTEGER NOT NULL,
    workload INTEGER NOT NULL,
    owner INTEGER NOT NULL REFERENCES owners,
    item TEXT NOT NULL,
    currency TEXT NOT NULL,
    whole BIGINT NOT NULL,
    nano BIGINT NOT NULL,
    rest BIGINT NOT NULL,
    PRIMARY KEY (ledger, day_s, workload, owner, item, currency, month)
);

CREATE INDEX billed_by_month ON billed (month);

CREATE INDEX billed_by_workload ON billed (workload);

-- The last month that is closed; 0: none is. All that writes to bills locks this row first.
CREATE TABLE closing (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    closed_to INTEGER NOT NULL
);

INSERT INTO closing VALUES (1, 0);

CREATE TABLE periods (
    month INTEGER PRIMARY KEY,
    closed_s BIGINT NOT NULL,           -- UTC
    closed_by TEXT NOT NULL CHECK (length(closed_by) > 0)
);

CREATE TABLE corrections (
    id INTEGER PRIMARY KEY,
    month INTEGER NOT NULL,             -- in which it counts
    made_s BIGINT NOT NULL,             -- UTC
    kind TEXT NOT NULL,                 -- correction, relabel, late labels
    who TEXT NOT NULL CHECK (length(who) > 0),
    why TEXT NOT NULL CHECK (length(why) > 0)
);

-- Each row takes an amount from one owner and gives it to another: a correction cannot but balance.
-- They are written before the correction they belong to (the reference is looked at in the end), and
-- none can be added once that is there.
CREATE TABLE transfers (
    correction INTEGER NOT NULL REFERENCES corrections DEFERRABLE INITIALLY DEFERRED,
    line INTEGER NOT NULL,
    month INTEGER NOT NULL,
    from_owner INTEGER NOT NULL REFERENCES owners,
    to_owner INTEGER NOT NULL REFERENCES owners,
    workload INTEGER NOT NULL,          -- 0: of no workload
    component TEXT NOT NULL,            -- '': money or CO2e
    energy_uj BIGINT NOT NULL CHECK (energy_uj >= 0),
    idle_uj BIGINT NOT NULL CHECK (idle_uj >= 0),
    held_ns BIGINT NOT NULL CHECK (held_ns >= 0),
    item TEXT NOT NULL,                 -- '': energy
    currency TEXT NOT NULL,
    whole BIGINT NOT NULL CHECK (whole >= 0),
    nano BIGINT NOT NULL CHECK (nano >= 0),
    rest BIGINT NOT NULL CHECK (rest >= 0),
    PRIMARY KEY (correction, line),
    CHECK (from_owner <> to_owner),
    CHECK ((component = '') <> (item = '')),
    CHECK (component <> '' OR (energy_uj = 0 AND idle_uj = 0 AND held_ns = 0)),
    CHECK (item <> '' OR (whole = 0 AND nano = 0 AND rest = 0))
);

CREATE INDEX transfers_by_month ON transfers (month);

CREATE INDEX transfers_by_workload ON transfers (workload);

-- Both legs of each transfer, and all that is billed beside them.
CREATE VIEW used_entries AS
    SELECT month, day_s, ledger, workload, owner, component, energy_uj, idle_uj, held_ns,
           0 AS correction
    FROM used
    UNION ALL
    SELECT month, 0, 0, workload, to_owner, component, energy_uj, idle_uj, held_ns, correction
    FROM transfers WHERE component <> ''
    UNION ALL
    SELECT month, 0, 0, workload, from_owner, component, -energy_uj, -idle_uj, -held_ns, correction
    FROM transfers WHERE component <> '';

CREATE VIEW billed_entries AS
    SELECT month, day_s, ledger, workload, owner, item, currency, whole, nano, rest,
           0 AS correction
    FROM billed
    UNION ALL
    SELECT month, 0, 0, workload, to_owner, item, currency, whole, nano, rest, correction
    FROM transfers WHERE item <> ''
    UNION ALL
    SELECT month, 0, 0, workload, from_owner, item, currency, -whole, -nano, -rest, correction
    FROM transfers WHERE item <> '';

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

CREATE TRIGGER used_open BEFORE INSERT OR UPDATE OR DELETE ON used
FOR EACH ROW EXECUTE FUNCTION joulebook_open_month();

CREATE TRIGGER billed_open BEFORE INSERT OR UPDATE OR DELETE ON billed
FOR EACH ROW EXECUTE FUNCTION joulebook_open_month();

CREATE TRIGGER closing_forward BEFORE UPDATE ON closing
FOR EACH ROW EXECUTE FUNCTION joulebook_forward();

CREATE TRIGGER closing_kept BEFORE DELETE OR TRUNCATE ON closing
FOR EACH STATEMENT EXECUTE FUNCTION joulebook_never('a closed month stays closed');

CREATE TRIGGER periods_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON periods
FOR EACH STATEMENT EXECUTE FUNCTION joulebook_never('a closed month stays closed');

CREATE TRIGGER used_kept BEFORE TRUNCATE ON used
FOR EACH STATEMENT EXECUTE FUNCTION joulebook_never('a closed month stays closed');

CREATE TRIGGER billed_kept BEFORE TRUNCATE ON billed
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

-- What the rows of a meter come to here: at the end of a ledger it is what the node's books say.
ALTER TABLE meters ADD COLUMN posted_uj BIGINT NOT NULL DEFAULT 0;

UPDATE meters SET posted_uj =
    (SELECT coalesce(sum(energy_uj), 0) FROM postings WHERE postings.meter = meters.id)
