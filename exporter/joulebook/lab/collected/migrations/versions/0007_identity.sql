-- A node says whose its own rows are and nobody else's, and numbers come again: so a workload is one
-- of a ledger, with its begin. What runs on several nodes is put together when it is reported (by the
-- scheduler's own start, else by time), so that nothing that is booked or billed ever moves.
-- Ledger 0: a row of before, which several nodes may share. What is new has its old meaning there.

CREATE TABLE facts_4 AS SELECT * FROM facts;

DROP TABLE facts;

CREATE TABLE workloads_5 (
    id INTEGER PRIMARY KEY,
    ledger INTEGER NOT NULL,
    cluster TEXT NOT NULL,
    scheduler TEXT NOT NULL,
    workload TEXT NOT NULL,
    start BIGINT NOT NULL,              -- UTC seconds; 0: the name is unique for all time
    owner INTEGER NOT NULL REFERENCES owners,
    relabelled INTEGER NOT NULL DEFAULT 0,  -- 1: a person said whose it is, nodes do not any more
    UNIQUE (workload, scheduler, start, ledger, cluster)
);

INSERT INTO workloads_5 SELECT id, 0, cluster, scheduler, workload, 0, owner, relabelled FROM workloads;

DROP TABLE workloads;

ALTER TABLE workloads_5 RENAME TO workloads;

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
    scheduler_start_s BIGINT NOT NULL DEFAULT 0,    -- the same on every node; 0: not known
    named INTEGER NOT NULL DEFAULT 0,   -- 1: a person gave the experiment its name
    stage TEXT NOT NULL DEFAULT '',
    outcome TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (workload, ledger)
);

INSERT INTO facts (ledger, workload, display, name, person, account, experiment, started_utc_ns,
                   ended_utc_ns, complete, gpu_count, evidence, extra)
SELECT ledger, workload, display, name, person, account, experiment, started_utc_ns,
       ended_utc_ns, complete, gpu_count, evidence, extra FROM facts_4;

DROP TABLE facts_4;

CREATE INDEX facts_by_display ON facts (display);

ALTER TABLE postings ADD COLUMN idle_ns BIGINT NOT NULL DEFAULT 0;

ALTER TABLE postings ADD COLUMN calibration_uj BIGINT NOT NULL DEFAULT 0;

-- 1: dated by a clock that was wrong, to a time that cannot be. Kept, not billed, not reported, until
-- the node dates it anew.
ALTER TABLE postings ADD COLUMN undated INTEGER NOT NULL DEFAULT 0;

ALTER TABLE charges ADD COLUMN undated INTEGER NOT NULL DEFAULT 0;

ALTER TABLE used ADD COLUMN idle_ns BIGINT NOT NULL DEFAULT 0;

ALTER TABLE transfers ADD COLUMN idle_ns BIGINT NOT NULL DEFAULT 0 CHECK (idle_ns >= 0);

DROP VIEW used_entries;

CREATE VIEW used_entries AS
    SELECT month, day_s, ledger, workload, owner, component, energy_uj, idle_uj, held_ns, idle_ns,
           0 AS correction
    FROM used
    UNION ALL
    SELECT month, 0, 0, workload, to_owner, component, energy_uj, idle_uj, held_ns, idle_ns,
           correction
    FROM transfers WHERE component <> ''
    UNION ALL
    SELECT month, 0, 0, workload, from_owner, component, -energy_uj, -idle_uj, -held_ns, -idle_ns,
           correction
    FROM transfers WHERE component <> '';

-- What was produced, by quarter hour: tokens of a model that was served.
CREATE TABLE tokens (
    quarter_s BIGINT NOT NULL,          -- UTC start of the quarter hour
    account TEXT NOT NULL,
    experiment TEXT NOT NULL,
    model_name TEXT NOT NULL,
    kind TEXT NOT NULL,
    workload INTEGER NOT NULL,          -- 0: not known which
    tokens BIGINT NOT NULL,
    PRIMARY KEY (quarter_s, account, experiment, model_name, kind, workload)
);

-- Nodes that came back under another name, with the ledger that they had.
CREATE TABLE renames (
    id INTEGER PRIMARY KEY,
    ledger INTEGER NOT NULL REFERENCES ledgers,
    seen_s BIGINT NOT NULL,             -- UTC
    cluster TEXT NOT NULL,              -- before
    node TEXT NOT NULL,
    new_cluster TEXT NOT NULL,
    new_node TEXT NOT NULL,
    target TEXT NOT NULL,               -- where it was found under the new name
    undone INTEGER NOT NULL DEFAULT 0   -- 1: a person said that it is not that node
);

-- Energy of a recorded trace (a demo, a replay) is not measured, and bills and reports say so.

ALTER TABLE meters ADD COLUMN replayed INTEGER NOT NULL DEFAULT 0;

-- How much of the held time tensor cores worked, and the held time for which that is known.
ALTER TABLE postings ADD COLUMN tensor_ns BIGINT NOT NULL DEFAULT 0;

ALTER TABLE postings ADD COLUMN tensor_known_ns BIGINT NOT NULL DEFAULT 0;
