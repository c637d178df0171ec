-- What every service has beside its own tables.

CREATE TABLE inbox (
    consumer    text NOT NULL,
    source      text NOT NULL,
    event_id    text NOT NULL,
    received_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, source, event_id)
);
CREATE INDEX inbox_received_at ON inbox USING brin (received_at);

-- raw_headers is set only for messages passed on as they came (dead letters and their replay): a JSON list of
-- [name, value as latin-1 text or null]. A row with `first` stands for many messages: they are made, when they are sent,
-- from rows of the service's own that are never changed and are numbered from `first` to `last`.
CREATE TABLE outbox (
    seq         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id    text NOT NULL,
    topic       text NOT NULL,
    key         bytea,
    value       bytea,
    time        timestamptz NOT NULL,
    traceparent text,
    raw_headers text,
    first       bigint,
    last        bigint
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

CREATE TABLE dead_letter (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    consumer    text NOT NULL,
    topic       text NOT NULL,
    partition   int NOT NULL,
    "offset"    bigint NOT NULL,
    key         bytea,
    value       bytea,
    raw_headers text NOT NULL,
    code        text NOT NULL,
    reason      text NOT NULL,
    details     jsonb NOT NULL,
    set_aside_at timestamptz NOT NULL DEFAULT now(),
    replayed_at timestamptz,
    replayed_by text,
    UNIQUE (consumer, topic, partition, "offset")
);

CREATE TABLE idempotency (
    subject     text NOT NULL,
    key         text NOT NULL,
    request     text NOT NULL,
    status      int,
    headers     jsonb,
    body        bytea,
    created_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (subject, key)
);

CREATE TABLE member_project (
    project_id  text PRIMARY KEY,
    revision    int NOT NULL,
    title       text NOT NULL,
    factory_id  text NOT NULL,
    closed      boolean NOT NULL
);

CREATE TABLE membership (
    project_id  text NOT NULL REFERENCES member_project ON DELETE CASCADE,
    subject     text NOT NULL,
    role        text NOT NULL,
    PRIMARY KEY (subject, project_id)
);
CREATE INDEX membership_by_project ON membership (project_id);
