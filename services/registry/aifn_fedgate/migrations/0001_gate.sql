-- Everybody's logs as this member holds them, its own among them: origin, stream and place name an envelope.

CREATE TABLE chain (
    origin      text NOT NULL,
    stream      text NOT NULL,
    epoch       bigint NOT NULL DEFAULT 0,
    seq         bigint NOT NULL DEFAULT 0,
    tip         bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    keys        bigint NOT NULL DEFAULT 0,
    digest      bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    seen_epoch  bigint NOT NULL DEFAULT 0,
    seen_seq    bigint NOT NULL DEFAULT 0,
    frozen      boolean NOT NULL DEFAULT false,
    -- The journal has no gap after this place; what lies before it was taken over as a state.
    base_epoch  bigint NOT NULL DEFAULT 0,
    base_seq    bigint NOT NULL DEFAULT 0,
    moved_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (origin, stream)
);

-- The log itself: of this member, and of every other as far as it was believed. `verdict` is that of the content.
CREATE TABLE journal (
    origin      text NOT NULL,
    stream      text NOT NULL,
    epoch       bigint NOT NULL,
    seq         bigint NOT NULL,
    hash        bytea NOT NULL,
    key_hash    bytea NOT NULL,
    verdict     text NOT NULL,
    code        text NOT NULL,
    raw         bytea NOT NULL,
    heard_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (origin, stream, epoch, seq)
);
CREATE INDEX journal_heard_at ON journal USING brin (heard_at);

-- The newest envelope of each thing that is not retired.
CREATE TABLE replica (
    origin      text NOT NULL,
    stream      text NOT NULL,
    key_hash    bytea NOT NULL,
    epoch       bigint NOT NULL,
    seq         bigint NOT NULL,
    hash        bytea NOT NULL,
    raw         bytea NOT NULL,
    PRIMARY KEY (origin, stream, key_hash)
);

-- Waits for what comes before it, for a newer directory or for a newer program.
CREATE TABLE parked (
    origin      text NOT NULL,
    stream      text NOT NULL,
    epoch       bigint NOT NULL,
    seq         bigint NOT NULL,
    hash        bytea NOT NULL,
    code        text NOT NULL,
    raw         bytea NOT NULL,
    heard_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (origin, stream, epoch, seq, hash)
);

CREATE TABLE quarantine (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    origin      text NOT NULL,
    stream      text NOT NULL,
    via         text NOT NULL,
    code        text NOT NULL,
    reason      text NOT NULL,
    raw         bytea,
    heard_at    timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX quarantine_by_origin ON quarantine (origin, heard_at);

CREATE TABLE verdict_count (
    origin      text NOT NULL,
    stream      text NOT NULL,
    verdict     text NOT NULL,
    count       bigint NOT NULL,
    PRIMARY KEY (origin, stream, verdict)
);

-- Proof that an owner signed two things for one place, or another thing than its head says.
CREATE TABLE evidence (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    origin      text NOT NULL,
    stream      text NOT NULL,
    alarm       text NOT NULL,
    ours        bytea,
    theirs      bytea NOT NULL,
    directory_version bigint NOT NULL,
    noted_at    timestamptz NOT NULL DEFAULT now()
);

-- Open until the next good news of that kind; each is announced once.
CREATE TABLE alarm (
    origin      text NOT NULL,
    stream      text NOT NULL,
    alarm       text NOT NULL,
    detail      text NOT NULL,
    raised_at   timestamptz NOT NULL,
    ended_at    timestamptz
);
CREATE UNIQUE INDEX alarm_open ON alarm (origin, stream, alarm) WHERE ended_at IS NULL;

CREATE TABLE peer (
    origin      text PRIMARY KEY,
    head_at     timestamptz NOT NULL,
    head        bytea
);

CREATE TABLE trusted_document (
    kind        text NOT NULL,
    version     bigint NOT NULL,
    content     text NOT NULL,
    PRIMARY KEY (kind, version)
);

-- Every charge once, with no word on the person; corrections replace it.
CREATE TABLE usage_charge (
    identity    bytea PRIMARY KEY,
    project_id  text NOT NULL,
    resource    text NOT NULL,
    hour        timestamptz NOT NULL,
    revision    int NOT NULL,
    amount      bigint NOT NULL
);

CREATE TABLE usage_hour (
    project_id  text NOT NULL,
    resource    text NOT NULL,
    hour        timestamptz NOT NULL,
    amount      numeric NOT NULL,
    records     int NOT NULL,
    revision    int NOT NULL DEFAULT 0,
    told        boolean NOT NULL DEFAULT false,
    PRIMARY KEY (project_id, resource, hour)
);
CREATE INDEX usage_hour_untold ON usage_hour (hour) WHERE NOT told;

CREATE TABLE usage_month (
    project_id  text NOT NULL,
    month       text NOT NULL,
    revision    int NOT NULL,
    amounts     jsonb NOT NULL,
    PRIMARY KEY (project_id, month)
);

-- A state that is being read again, page by page, until it can take the place of the replica as a whole.
CREATE TABLE rebuild (
    origin      text NOT NULL,
    stream      text NOT NULL,
    key_hash    bytea NOT NULL,
    epoch       bigint NOT NULL,
    seq         bigint NOT NULL,
    hash        bytea NOT NULL,
    raw         bytea NOT NULL,
    retired     boolean NOT NULL,
    key         text,
    value       bytea,
    event_id    text,
    PRIMARY KEY (origin, stream, key_hash)
);
