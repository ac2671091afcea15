-- The first ledger: what was booked (postings, gaps, workloads) and the books themselves (state).
-- sqlite of 2018 and newer can run this (no STRICT, no RETURNING), hence the checks on types: a sum
-- that leaves 64 bits would otherwise turn into a floating point number in silence.
--
-- `seq` numbers changes, ledger-wide and for ever. A row that changes gets a new one, so whoever
-- reads "everything after N" in the order of seq, and puts each row in the place of its older
-- self, holds what this ledger holds, however often it is interrupted.

CREATE TABLE ledger (
    ledger_id TEXT NOT NULL,            -- random: tells a collector that a ledger began anew
    created_s INTEGER NOT NULL          -- UTC
);
INSERT INTO ledger VALUES (lower(hex(randomblob(16))), CAST(strftime('%s', 'now') AS INTEGER));

CREATE TABLE meters (
    id INTEGER PRIMARY KEY,
    component TEXT NOT NULL,
    name TEXT NOT NULL,
    expired_uj INTEGER NOT NULL DEFAULT 0 CHECK (typeof(expired_uj) = 'integer'),
                                        -- energy of postings deleted for their age
    UNIQUE (component, name)
);

CREATE TABLE workloads (
    id INTEGER PRIMARY KEY,
    scheduler TEXT NOT NULL,
    workload TEXT NOT NULL,
    display TEXT NOT NULL DEFAULT '',   -- the name people are shown: 101_7 of an array
    name TEXT NOT NULL DEFAULT '',
    user TEXT NOT NULL DEFAULT '',
    account TEXT NOT NULL DEFAULT '',
    experiment TEXT NOT NULL DEFAULT '',
    started_ns INTEGER,                 -- node time; NULL: not known
    started_utc_ns INTEGER,             -- UTC as it stood when the facts were written
    ended_ns INTEGER,                   -- NULL: not ended, or not known
    ended_utc_ns INTEGER,
    complete INTEGER NOT NULL DEFAULT 0,
    gpu_count INTEGER NOT NULL DEFAULT 0,
    evidence TEXT NOT NULL DEFAULT '',
    extra TEXT NOT NULL DEFAULT '{}',   -- JSON object of strings
    touched_s INTEGER NOT NULL,         -- UTC of the last change of this row
    seq INTEGER NOT NULL,
    UNIQUE (workload, scheduler)
);
CREATE INDEX workloads_by_display ON workloads (display);
CREATE INDEX workloads_by_experiment ON workloads (experiment, account);
CREATE INDEX workloads_by_age ON workloads (touched_s);
CREATE INDEX workloads_by_seq ON workloads (seq);

-- The quarter comes first, so that all that a tick touches lies on a page or two.
CREATE TABLE postings (
    quarter_s INTEGER NOT NULL,         -- UTC start of the quarter hour
    meter_id INTEGER NOT NULL REFERENCES meters,
    workload_id INTEGER NOT NULL,       -- 0: a remainder
    remainder TEXT NOT NULL,            -- '': a workload
    method TEXT NOT NULL,
    evidence TEXT NOT NULL,
    energy_uj INTEGER NOT NULL CHECK (typeof(energy_uj) = 'integer'),
    idle_uj INTEGER NOT NULL CHECK (typeof(idle_uj) = 'integer'),
    held_ns INTEGER NOT NULL CHECK (typeof(held_ns) = 'integer'),
    seq INTEGER NOT NULL,
    PRIMARY KEY (quarter_s, meter_id, workload_id, remainder, method, evidence),
    CHECK ((workload_id = 0) = (remainder <> ''))
) WITHOUT ROWID;
CREATE INDEX postings_by_workload ON postings (workload_id) WHERE workload_id > 0;
CREATE INDEX postings_by_seq ON postings (seq);

CREATE TABLE gaps (
    id INTEGER PRIMARY KEY,
    meter_id INTEGER NOT NULL REFERENCES meters,
    reason TEXT NOT NULL,
    t0_ns INTEGER NOT NULL,             -- node time
    t1_ns INTEGER NOT NULL,
    t0_utc_ns INTEGER NOT NULL,         -- UTC as it stood when the gap was written
    t1_utc_ns INTEGER NOT NULL,
    seq INTEGER NOT NULL
);
CREATE INDEX gaps_by_end ON gaps (meter_id, t1_ns);
CREATE INDEX gaps_by_age ON gaps (t1_utc_ns);
CREATE INDEX gaps_by_seq ON gaps (seq);

-- The books: one row per item of a mapping, key and value in MessagePack.
CREATE TABLE state (
    kind TEXT NOT NULL,
    key BLOB NOT NULL,
    value BLOB NOT NULL,
    PRIMARY KEY (kind, key)
) WITHOUT ROWID;
