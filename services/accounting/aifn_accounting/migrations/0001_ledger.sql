-- Projects, allocations and the ledger. All amounts are whole numbers in the unit of their resource.

-- What a resource is, as the machine's passport says; amounts are turned into node-hours with it, in views only.
-- `factory_ids` may grant it; a machine of no factory is granted by nobody.
CREATE TABLE resource (
    id               text PRIMARY KEY,
    machine_id       text NOT NULL,
    partition_id     text NOT NULL,
    unit             text NOT NULL,
    units_per_node   int NOT NULL CHECK (units_per_node > 0),
    devices_per_node int,
    gpus_per_node    int,
    cores_per_node   int,
    nodes            int,
    factory_ids      text[] NOT NULL,
    revision         int NOT NULL
);

-- Members stand in the table of the plumbing that every service has; this one writes the truth into it.
CREATE TABLE project (
    id         text PRIMARY KEY,
    title      text NOT NULL,
    factory_id text NOT NULL,
    revision   int NOT NULL DEFAULT 0,
    closed     boolean NOT NULL DEFAULT false,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL
);

CREATE TABLE award (
    id                 text PRIMARY KEY,
    project_id         text NOT NULL REFERENCES project,
    application_id     text NOT NULL,
    mode               text NOT NULL,
    policy_version     text NOT NULL,
    deciding_authority text NOT NULL,
    applicant_kind     text NOT NULL,
    country            text NOT NULL,
    starts_at          timestamptz NOT NULL,
    ends_at            timestamptz NOT NULL
);

-- An account holds one resource, for ever. Owners are allocations and, for the shares they come from, pools.
CREATE TABLE account (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    owner    text NOT NULL,
    role     text NOT NULL CHECK (role IN (
        'funder', 'union_pool', 'national_pool', 'mode_group',
        'available', 'held', 'consumed', 'overrun', 'expired', 'clearing'
    )),
    resource text NOT NULL,
    UNIQUE (owner, role, resource)
);

-- The balances of four accounts, kept beside them. `available` and `overrun` are never both above zero: whatever comes
-- back pays an overrun first. So the five numbers depend on what happened and not on the order in which it was heard.
CREATE TABLE allocation (
    number     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id         text NOT NULL UNIQUE,
    project_id text NOT NULL REFERENCES project,
    award_id   text REFERENCES award,
    resource   text NOT NULL,
    pool       text NOT NULL CHECK (pool IN ('union', 'national')),
    starts_at  timestamptz NOT NULL,
    ends_at    timestamptz NOT NULL,
    reason     text NOT NULL,
    granted_by text NOT NULL,
    granted_at timestamptz NOT NULL,
    granted    bigint NOT NULL DEFAULT 0 CHECK (granted >= 0),
    available  bigint NOT NULL DEFAULT 0 CHECK (available >= 0),
    held       bigint NOT NULL DEFAULT 0 CHECK (held >= 0),
    charged    bigint NOT NULL DEFAULT 0 CHECK (charged >= 0),
    overrun    bigint NOT NULL DEFAULT 0 CHECK (overrun >= 0),
    available_account bigint NOT NULL REFERENCES account,
    held_account      bigint NOT NULL REFERENCES account,
    consumed_account  bigint NOT NULL REFERENCES account,
    overrun_account   bigint NOT NULL REFERENCES account,
    CHECK (starts_at < ends_at),
    CHECK (granted = available + held + charged - overrun),
    CHECK (available = 0 OR overrun = 0),
    UNIQUE (award_id, resource)
) WITH (fillfactor = 50);
CREATE INDEX allocation_by_project ON allocation (project_id, resource);

-- What was set aside for a job, and whether the job is over. A row without allocation: refused, or closed unheard of.
-- What the job's usage has taken of it is the sum of its charges, and is not written a second time.
CREATE TABLE job_budget (
    job_id            text PRIMARY KEY,
    project_id        text NOT NULL,
    revision          int,
    allocation_number bigint REFERENCES allocation,
    amount            bigint NOT NULL DEFAULT 0 CHECK (amount >= 0),
    segments_expected int,
    outcome           text,
    closed_at         timestamptz,
    released_at       timestamptz
) WITH (fillfactor = 70);

-- Every usage record that was accepted, all revisions, as it was reported. Append-only: the highest revision of an
-- identity counts. Numbers are given one batch at a time, so they are in order of commit: who reads on from a number
-- misses nothing. No foreign keys here: the batch that writes has read and locked what it refers to.
-- `allocation_number`, `charged` and `rate_card` are its first charge, for nearly every record has exactly one; one that
-- does not count, because a later revision was here before it, has none.
CREATE TABLE usage_record (
    number        bigint PRIMARY KEY,
    machine_id    text NOT NULL,
    local_job_id  text NOT NULL,
    submitted_at  timestamptz NOT NULL,
    segment       int NOT NULL,
    revision      int NOT NULL,
    job_id        text NOT NULL,
    project_id    text NOT NULL,
    partition_id  text NOT NULL,
    local_user    text NOT NULL,
    pseudonym     text NOT NULL,
    kind          text NOT NULL,
    state         text NOT NULL,
    started_at    timestamptz NOT NULL,
    ended_at      timestamptz NOT NULL,
    nodes         int NOT NULL,
    amounts       json NOT NULL,
    collector     text NOT NULL,
    recorded_at   timestamptz NOT NULL,
    allocation_number bigint,
    charged       bigint CHECK (charged >= 0),
    rate_card     text,
    UNIQUE (local_job_id, machine_id, submitted_at, segment, revision)
);
CREATE INDEX usage_record_by_job ON usage_record (job_id);
CREATE INDEX usage_record_by_end ON usage_record USING brin (ended_at);

CREATE VIEW current_usage AS
SELECT u.* FROM usage_record u
WHERE NOT EXISTS (
    SELECT FROM usage_record later
    WHERE (later.local_job_id, later.machine_id, later.submitted_at, later.segment)
        = (u.local_job_id, u.machine_id, u.submitted_at, u.segment)
      AND later.revision > u.revision
);

-- What a usage record costs allocations beside its first charge. `position` is its place in the order in which charges
-- become known: the record's own number, or a later one of the same count, if it waited for somebody who can pay.
CREATE TABLE further_charge (
    usage_number      bigint NOT NULL,
    allocation_number bigint NOT NULL,
    amount            bigint NOT NULL CHECK (amount >= 0),
    rate_card         text NOT NULL,
    position          bigint NOT NULL,
    PRIMARY KEY (usage_number, allocation_number)
);
CREATE INDEX further_charge_by_position ON further_charge (position, allocation_number);

-- What one usage record costs one allocation, as a whole; the charge of a later revision takes its place. To find the
-- charges of an allocation, ask `ledger_transfer`, which has an index for it.
CREATE VIEW usage_charge AS
SELECT u.number AS usage_number, u.allocation_number, a.resource, u.charged AS amount, u.rate_card, u.number AS position, false AS settled
FROM usage_record u JOIN allocation a ON a.number = u.allocation_number
UNION ALL
SELECT f.usage_number, f.allocation_number, a.resource, f.amount, f.rate_card, f.position,
    f.position <> f.usage_number
FROM further_charge f JOIN allocation a ON a.number = f.allocation_number;

-- Double entry: one amount of one resource leaves an account and enters another, so every transfer sums to zero.
-- `allocation_number` is the allocation on whose statement it stands.
CREATE TABLE ledger_transfer (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    allocation_number bigint NOT NULL,
    kind              text NOT NULL
        CHECK (kind IN (
            'grant', 'sub_grant', 'hold', 'release', 'charge', 'refund', 'overrun', 'settle', 'transfer', 'expiry',
            'correction'
        )),
    source            bigint NOT NULL,
    target            bigint NOT NULL,
    resource          text NOT NULL,
    amount            bigint NOT NULL CHECK (amount > 0),
    job_id            text,
    usage_number      bigint,
    recorded_at       timestamptz NOT NULL,
    CHECK (source <> target)
);
CREATE INDEX ledger_transfer_by_allocation ON ledger_transfer (allocation_number, id);

CREATE VIEW posting AS
SELECT id AS transfer_id, source AS account_id, resource, -amount AS amount FROM ledger_transfer
UNION ALL
SELECT id, target, resource, amount FROM ledger_transfer;

-- How an amount that was reported becomes an amount that is charged: times numerator, divided by denominator, rounded
-- up. `resource` is one resource, or `*` for those that have no card of their own.
CREATE TABLE rate_card (
    id          text NOT NULL CHECK (id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    resource    text NOT NULL,
    numerator   int NOT NULL CHECK (numerator >= 0),
    denominator int NOT NULL CHECK (denominator > 0),
    valid_from  timestamptz NOT NULL,
    valid_until timestamptz,
    CHECK (valid_until > valid_from),
    PRIMARY KEY (id, resource, valid_from)
);
INSERT INTO rate_card VALUES ('as-reported', '*', 1, 1, '1970-01-01T00:00:00Z', NULL);

-- What a site says it has sent for one of its days.
CREATE TABLE usage_day (
    machine_id text NOT NULL,
    day        date NOT NULL,
    revision   int NOT NULL,
    records    int NOT NULL,
    totals     jsonb NOT NULL,
    digest     text NOT NULL,
    stated_at  timestamptz NOT NULL,
    PRIMARY KEY (machine_id, day)
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % is refused', TG_TABLE_NAME, TG_OP USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER ledger_transfer_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger_transfer
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER usage_record_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON usage_record
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER further_charge_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON further_charge
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER account_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON account
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Both sides of a transfer hold the resource it moves. Once a statement: a foreign key would ask once a row.
CREATE FUNCTION refuse_mixed_resources() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong bigint;
BEGIN
    SELECT t.id INTO wrong FROM added t
    LEFT JOIN account s ON s.id = t.source AND s.resource = t.resource
    LEFT JOIN account d ON d.id = t.target AND d.resource = t.resource
    WHERE s.id IS NULL OR d.id IS NULL LIMIT 1;
    IF wrong IS NOT NULL THEN
        RAISE EXCEPTION 'transfer % moves a resource that one of its accounts does not hold', wrong
            USING ERRCODE = 'check_violation';
    END IF;
    RETURN NULL;
END $$;

CREATE TRIGGER ledger_transfer_one_resource AFTER INSERT ON ledger_transfer
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION refuse_mixed_resources();
