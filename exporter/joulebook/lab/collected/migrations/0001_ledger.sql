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
