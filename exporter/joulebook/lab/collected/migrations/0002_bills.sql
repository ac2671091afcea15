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
