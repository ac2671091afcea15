-- What the lab server keeps besides the ledger. Secrets are stored as SHA-256 only.

CREATE TABLE lab_nonces (
    nonce TEXT PRIMARY KEY,
    until_s BIGINT NOT NULL             -- UTC; used up by being deleted
);

-- Sessions of browsers and commands, links into the browser, and tokens of programs.
CREATE TABLE lab_grants (
    secret TEXT PRIMARY KEY,            -- SHA-256, hexadecimal
    kind TEXT NOT NULL,                 -- session, link, token
    person TEXT NOT NULL,
    how TEXT NOT NULL,                  -- how identity was proved
    name TEXT NOT NULL,                 -- of a token
    until_s BIGINT NOT NULL             -- UTC
);

CREATE TABLE lab_audit (
    id INTEGER PRIMARY KEY,
    when_s BIGINT NOT NULL,             -- UTC
    who TEXT NOT NULL,
    how TEXT NOT NULL,
    what TEXT NOT NULL
)
