-- What was charged (money, CO2e), and at which rates: the energy is in `postings`, and can be charged
-- anew at other rates; these are the amounts that were shown, to compare with.
--
-- An amount is exact: `whole` units of the currency (or kg of CO2e), `nano` billionths of one, and
-- `rest`, atoms of 1/3.6e18 of a billionth. `nano` and `rest` are carried, so that each stays below
-- one of the next, and two of them can be added in 64 bits.

CREATE TABLE charges (
    quarter_s INTEGER NOT NULL,         -- UTC start of the quarter hour; 0: all that is older than
                                        -- is kept, then with remainder '(expired)'
    workload_id INTEGER NOT NULL,       -- 0: a remainder
    remainder TEXT NOT NULL,            -- '': a workload
    item TEXT NOT NULL,                 -- electricity, credit, hardware, co2e
    currency TEXT NOT NULL,             -- '': CO2e
    whole INTEGER NOT NULL CHECK (typeof(whole) = 'integer'),
    nano INTEGER NOT NULL CHECK (typeof(nano) = 'integer'),
    rest INTEGER NOT NULL CHECK (typeof(rest) = 'integer'),
    seq INTEGER NOT NULL,
    PRIMARY KEY (quarter_s, workload_id, remainder, item, currency),
    CHECK ((workload_id = 0) = (remainder <> ''))
) WITHOUT ROWID;
CREATE INDEX charges_by_workload ON charges (workload_id) WHERE workload_id > 0;
CREATE INDEX charges_by_seq ON charges (seq);

-- The rates that were in force, from where, how good, and how much was charged at them.
CREATE TABLE rates_used (
    quarter_s INTEGER NOT NULL,
    quantity TEXT NOT NULL,             -- price, carbon, pue, hardware
    value INTEGER NOT NULL CHECK (typeof(value) = 'integer'),
    unit TEXT NOT NULL,                 -- nEUR/kWh, ugCO2e/kWh, ppm, nEUR/GPU-hour
    source TEXT NOT NULL,
    quality TEXT NOT NULL,              -- measured, estimated, forecast, default
    energy_uj INTEGER NOT NULL CHECK (typeof(energy_uj) = 'integer'),
    held_ns INTEGER NOT NULL CHECK (typeof(held_ns) = 'integer'),
    seq INTEGER NOT NULL,
    PRIMARY KEY (quarter_s, quantity, value, unit, source, quality)
) WITHOUT ROWID;
CREATE INDEX rates_used_by_seq ON rates_used (seq);
