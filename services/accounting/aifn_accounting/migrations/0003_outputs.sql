-- What leaves accounting: webhooks and the log of their deliveries, and what an hour is worth in exports.

-- A webhook reads on in the list of all charges: `usage_number` and `allocation_number` are the last charge it was given.
-- No secret lies here: it is made from the service's key, the id and `generation`.
CREATE TABLE webhook (
    id                text PRIMARY KEY,
    owner             text NOT NULL,
    through           text NOT NULL CHECK (through IN ('membership', 'role')),
    project_id        text REFERENCES project,
    factory_id        text NOT NULL,
    url               text NOT NULL,
    state             text NOT NULL DEFAULT 'unconfirmed'
        CHECK (state IN ('unconfirmed', 'active', 'paused', 'revoked')),
    state_reason      text NOT NULL DEFAULT 'waits for the answer to its challenge',
    generation        int NOT NULL DEFAULT 0,
    revision          int NOT NULL DEFAULT 0,
    usage_number      bigint NOT NULL DEFAULT 0,
    allocation_number bigint NOT NULL DEFAULT 0,
    failures          int NOT NULL DEFAULT 0,
    next_attempt_at   timestamptz NOT NULL DEFAULT now(),
    created_at        timestamptz NOT NULL DEFAULT now(),
    CHECK (through = 'role' OR project_id IS NOT NULL)
);
CREATE INDEX webhook_due ON webhook (next_attempt_at) WHERE state IN ('unconfirmed', 'active');

-- One line for each attempt, forgotten after a while. Of an answer only its status is kept, never its words: what an
-- address behind a webhook says must not become readable through this log.
CREATE TABLE webhook_delivery (
    number     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    webhook_id text NOT NULL REFERENCES webhook ON DELETE CASCADE,
    kind       text NOT NULL CHECK (kind IN ('challenge', 'usage')),
    attempt    int NOT NULL,
    records    int NOT NULL,
    first      text,
    last       text,
    address    text,
    status     int,
    outcome    text NOT NULL,
    took_ms    int NOT NULL,
    at         timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX webhook_delivery_by_webhook ON webhook_delivery (webhook_id, number);
CREATE INDEX webhook_delivery_at ON webhook_delivery USING brin (at);

-- What an hour of a node or of a GPU would cost, for the list cost in exports: supplied by the operator with its source,
-- empty by default. Nothing is ever billed.
CREATE TABLE hour_value (
    resource   text NOT NULL,
    unit       text NOT NULL CHECK (unit IN ('node-hour', 'gpu-hour')),
    valid_from timestamptz NOT NULL,
    amount     numeric(18, 6) NOT NULL CHECK (amount >= 0),
    currency   text NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    source     text NOT NULL,
    entered_by text NOT NULL,
    entered_at timestamptz NOT NULL,
    PRIMARY KEY (resource, valid_from)
);
CREATE TRIGGER hour_value_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON hour_value
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
