-- A store as the release before schema 2 left it: its tables word for word, a notification that was read, the
-- mark that says so, and a broadcast. Times are of now, or retention would take the rows away.
PRAGMA journal_mode = wal;
-- One row per user ever met. `head` is the newest position, `lost` the newest one retention removed.
CREATE TABLE users (
    user TEXT PRIMARY KEY,
    head INTEGER NOT NULL,
    lost INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

CREATE TABLE inbox (
    sequence INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    pos INTEGER NOT NULL,
    prev INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    id BLOB NOT NULL,
    priority TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    collapse_key TEXT,
    content BLOB NOT NULL,
    stored_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX inbox_by_position ON inbox (user, pos);
CREATE UNIQUE INDEX inbox_by_id ON inbox (user, id, kind);
CREATE INDEX inbox_by_collapse_key ON inbox (user, collapse_key, pos) WHERE collapse_key IS NOT NULL;

-- Insert-only, apart from the inbox: a receipt may be of a broadcast, or of a row not yet stored.
CREATE TABLE receipts (
    sequence INTEGER PRIMARY KEY,
    user TEXT NOT NULL,
    id BLOB NOT NULL,
    stored_ms INTEGER NOT NULL
) STRICT;
CREATE UNIQUE INDEX receipts_by_id ON receipts (user, id);

CREATE TABLE broadcasts (
    pos INTEGER PRIMARY KEY,
    prev INTEGER NOT NULL,
    id BLOB NOT NULL UNIQUE,
    priority TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    expires_ms INTEGER,
    collapse_key TEXT,
    content BLOB NOT NULL,
    stored_ms INTEGER NOT NULL
) STRICT;
CREATE INDEX broadcasts_by_collapse_key ON broadcasts (collapse_key, pos) WHERE collapse_key IS NOT NULL;
CREATE TABLE broadcast_head (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    head INTEGER NOT NULL,
    lost INTEGER NOT NULL
) STRICT;
INSERT INTO broadcast_head VALUES (1, 0, 0);

-- What one gateway ('' : the dispatcher) said of one channel. `user` is '' for a broadcast; only there
-- `facet` is the rank, so that a gateway's counts stand side by side instead of replacing each other.
CREATE TABLE deliveries (
    id BLOB NOT NULL,
    user TEXT NOT NULL,
    channel TEXT NOT NULL,
    gateway TEXT NOT NULL,
    facet INTEGER NOT NULL,
    state TEXT NOT NULL,
    rank INTEGER NOT NULL,
    devices INTEGER NOT NULL,
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (id, user, channel, gateway, facet)
) STRICT, WITHOUT ROWID;
CREATE INDEX deliveries_by_user ON deliveries (user, id) WHERE user <> '';

CREATE TABLE claims (
    sequence INTEGER PRIMARY KEY,
    producer TEXT NOT NULL,
    key TEXT NOT NULL,
    body_hash BLOB NOT NULL,
    id BLOB NOT NULL,
    done INTEGER NOT NULL,
    claimed_ms INTEGER NOT NULL,
    UNIQUE (producer, key)
) STRICT;

CREATE TABLE api_keys (
    hash BLOB PRIMARY KEY,
    producer TEXT NOT NULL,
    admin INTEGER NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

INSERT INTO users (user, head) VALUES ('ada', 1099511627778);
INSERT INTO inbox (user, pos, prev, kind, id, priority, created_ms, content, stored_ms) VALUES
    ('ada', 1099511627777, 0, 0, x'01900000000070008000000000000001', 'high', unixepoch() * 1000,
     CAST('{"type":"order","priority":"high","channels":["in_app"],"title":"Shipped","producer":"shop"}' AS BLOB),
     unixepoch() * 1000),
    ('ada', 1099511627778, 1099511627777, 1, x'01900000000070008000000000000002', 'normal', unixepoch() * 1000,
     CAST('["01900000-0000-7000-8000-000000000001"]' AS BLOB), unixepoch() * 1000);
INSERT INTO receipts (user, id, stored_ms) VALUES
    ('ada', x'01900000000070008000000000000001', unixepoch() * 1000);
INSERT INTO broadcasts (pos, prev, id, priority, created_ms, content, stored_ms) VALUES
    (1099511627777, 0, x'01900000000070008000000000000003', 'normal', unixepoch() * 1000,
     CAST('{"type":"news","channels":["in_app"],"title":"All","producer":"shop"}' AS BLOB), unixepoch() * 1000);
INSERT INTO deliveries (id, user, channel, gateway, facet, state, rank, devices, at_ms) VALUES
    (x'01900000000070008000000000000001', 'ada', 'in_app', 'gw-1.1', 0, 'read', 5, 1, unixepoch() * 1000);
UPDATE broadcast_head SET head = 1099511627777;
PRAGMA user_version = 1;
