-- Names come again (SLURM's job numbers do): the begin is part of a workload's identity. What a
-- person said of a run, GPU time held idle, and what calibration added to energy as it was read.
-- Rows of before have the values that they meant: no begin, nothing known to be idle, not calibrated.

CREATE TABLE workloads_3 (
    id INTEGER PRIMARY KEY,
    scheduler TEXT NOT NULL,
    workload TEXT NOT NULL,
    start INTEGER NOT NULL,             -- UTC seconds; 0: the name is unique for all time
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
    scheduler_start_s INTEGER NOT NULL DEFAULT 0,   -- the scheduler's own start; 0: not known
    named INTEGER NOT NULL DEFAULT 0,   -- 1: a person gave the experiment its name
    stage TEXT NOT NULL DEFAULT '',
    outcome TEXT NOT NULL DEFAULT '',
    touched_s INTEGER NOT NULL,         -- UTC of the last change of this row
    seq INTEGER NOT NULL,
    UNIQUE (workload, scheduler, start)
);
INSERT INTO workloads_3 (id, scheduler, workload, start, display, name, user, account, experiment,
                         started_ns, started_utc_ns, ended_ns, ended_utc_ns, complete, gpu_count,
                         evidence, extra, touched_s, seq)
SELECT id, scheduler, workload, 0, display, name, user, account, experiment,
       started_ns, started_utc_ns, ended_ns, ended_utc_ns, complete, gpu_count,
       evidence, extra, touched_s, seq
FROM workloads;
DROP TABLE workloads;
ALTER TABLE workloads_3 RENAME TO workloads;
CREATE INDEX workloads_by_display ON workloads (display);
CREATE INDEX workloads_by_experiment ON workloads (experiment, account);
CREATE INDEX workloads_by_age ON workloads (touched_s);
CREATE INDEX workloads_by_seq ON workloads (seq);

ALTER TABLE postings ADD COLUMN idle_ns INTEGER NOT NULL DEFAULT 0
    CHECK (typeof(idle_ns) = 'integer');
ALTER TABLE postings ADD COLUMN calibration_uj INTEGER NOT NULL DEFAULT 0
    CHECK (typeof(calibration_uj) = 'integer');

-- Which node it is of, as it last called itself (a copy of the file would else not say).
ALTER TABLE ledger ADD COLUMN node TEXT NOT NULL DEFAULT '';
ALTER TABLE ledger ADD COLUMN cluster TEXT NOT NULL DEFAULT '';
