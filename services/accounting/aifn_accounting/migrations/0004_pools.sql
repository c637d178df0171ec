-- Pools, caps, awards that wait, approvals, people, settlements between factories, and the trail of changes.
-- All amounts are whole numbers in the unit of their resource.

ALTER TABLE account DROP CONSTRAINT account_role_check;
ALTER TABLE account ADD CONSTRAINT account_role_check CHECK (role IN (
    'funder', 'union_pool', 'national_pool', 'fund', 'mode_group',
    'available', 'held', 'consumed', 'overrun', 'expired', 'clearing'
));

-- What expired or was returned to its pool has left `granted`: the other four still sum up to that. `revision` counts changes by decision, not usage.
-- `inference_cap_pct` is what was in force when it was opened; a later switch does not reach back.
ALTER TABLE allocation
    ADD COLUMN revision int NOT NULL DEFAULT 0,
    ADD COLUMN pool_id text,
    ADD COLUMN mode text,
    ADD COLUMN policy_version text,
    ADD COLUMN first_granted bigint NOT NULL DEFAULT 0,
    ADD COLUMN first_ends_at timestamptz,
    ADD COLUMN expired bigint NOT NULL DEFAULT 0 CHECK (expired >= 0),
    ADD COLUMN returned bigint NOT NULL DEFAULT 0 CHECK (returned >= 0),
    ADD COLUMN extensions int NOT NULL DEFAULT 0,
    ADD COLUMN use_or_lose text,
    ADD COLUMN earmark text,
    ADD COLUMN inference_cap_pct int CHECK (inference_cap_pct BETWEEN 0 AND 100);
CREATE INDEX allocation_by_end ON allocation (ends_at) WHERE available > 0 OR (overrun > 0 AND expired > 0);

-- What kind of work a job is, as far as it was said; only inference is metered apart.
ALTER TABLE job_budget ADD COLUMN workload text;
CREATE INDEX job_budget_inference ON job_budget (allocation_number) WHERE workload = 'inference';

-- Machines bring their resources; others are registered, with a unit of their own: credits, hours of experts, bytes.
CREATE TABLE other_resource (
    id            text PRIMARY KEY,
    unit          text NOT NULL,
    title         text NOT NULL,
    factory_id    text NOT NULL,
    registered_by text NOT NULL,
    registered_at timestamptz NOT NULL
);

-- A share of one resource for some time. `funded` came in, `passed_on` went to pools below and to allocations and has
-- not come back; nobody can pass on more than there is, however many try at once. `reserved` is demand of other modes,
-- to which the groups that yield give way.
CREATE TABLE pool (
    id             text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    kind           text NOT NULL CHECK (kind IN ('union', 'national', 'fund')),
    title          text NOT NULL,
    parent         text REFERENCES pool,
    funder         text NOT NULL,
    factory_id     text NOT NULL,
    resource       text NOT NULL,
    starts_at      timestamptz NOT NULL,
    ends_at        timestamptz NOT NULL,
    funded         bigint NOT NULL DEFAULT 0,
    passed_on      bigint NOT NULL DEFAULT 0 CHECK (passed_on >= 0),
    available      bigint GENERATED ALWAYS AS (funded - passed_on) STORED,
    reserved       bigint NOT NULL DEFAULT 0 CHECK (reserved >= 0),
    earmark        text,
    use_or_lose    text,
    most_per_grant bigint CHECK (most_per_grant > 0),
    longest_days   int CHECK (longest_days > 0),
    account        bigint NOT NULL REFERENCES account,
    revision       int NOT NULL DEFAULT 0,
    created_by     text NOT NULL,
    created_at     timestamptz NOT NULL,
    CHECK (starts_at < ends_at),
    CHECK (passed_on <= funded),
    CHECK (parent <> id)
) WITH (fillfactor = 50);
CREATE INDEX pool_by_resource ON pool (resource, kind, starts_at);

-- A ceiling for a group of modes under one policy version, on one resource for some time. `base` says of what the
-- percentage is: of the pools of that kind, of the whole machine in that time, or of an amount that somebody stated.
CREATE TABLE share_cap (
    id             text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    factory_id     text NOT NULL,
    policy_version text NOT NULL,
    mode_group     text NOT NULL,
    modes          text[] NOT NULL CHECK (cardinality(modes) > 0),
    pool_kind      text NOT NULL CHECK (pool_kind IN ('union', 'national', 'fund')),
    resource       text NOT NULL,
    starts_at      timestamptz NOT NULL,
    ends_at        timestamptz NOT NULL,
    pct            int NOT NULL CHECK (pct BETWEEN 0 AND 100),
    base           text NOT NULL CHECK (base IN ('share', 'machine', 'stated')),
    base_amount    bigint NOT NULL CHECK (base_amount >= 0),
    ceiling        bigint NOT NULL CHECK (ceiling >= 0),
    used           bigint NOT NULL DEFAULT 0 CHECK (used >= 0),
    yields         boolean NOT NULL,
    source         text NOT NULL,
    account        bigint NOT NULL REFERENCES account,
    revision       int NOT NULL DEFAULT 0,
    created_by     text NOT NULL,
    created_at     timestamptz NOT NULL,
    CHECK (starts_at < ends_at),
    UNIQUE (policy_version, mode_group, pool_kind, resource, starts_at)
) WITH (fillfactor = 50);
CREATE INDEX share_cap_by_resource ON share_cap (resource, pool_kind);

-- A ceiling may be lowered below what was given already: then nothing more is given. It is never passed by giving.
CREATE FUNCTION refuse_over_ceiling() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.used > OLD.used AND NEW.used > NEW.ceiling THEN
        RAISE EXCEPTION 'cap % would stand at % of %', NEW.id, NEW.used, NEW.ceiling USING ERRCODE = 'check_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER share_cap_ceiling BEFORE UPDATE OF used ON share_cap
    FOR EACH ROW EXECUTE FUNCTION refuse_over_ceiling();

-- Pools are read by account: what moves them is a small part of the ledger.
CREATE INDEX ledger_transfer_out_of_pool ON ledger_transfer (source, id)
    WHERE kind IN ('grant', 'sub_grant', 'transfer', 'expiry', 'correction');
CREATE INDEX ledger_transfer_into_pool ON ledger_transfer (target, id)
    WHERE kind IN ('grant', 'sub_grant', 'transfer', 'expiry', 'correction');

-- Awards that were heard of and could not be carried out yet, whole, in the order of their arrival.
CREATE TABLE pending_award (
    award_id    text PRIMARY KEY,
    number      bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    project_id  text NOT NULL,
    factory_id  text NOT NULL,
    event       jsonb NOT NULL,
    code        text NOT NULL,
    because     text NOT NULL,
    tries       int NOT NULL DEFAULT 1,
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'carried_out', 'withdrawn')),
    received_at timestamptz NOT NULL,
    tried_at    timestamptz NOT NULL
);
CREATE INDEX pending_award_waiting ON pending_award (number) WHERE state = 'waiting';

-- Large grants wait for a second person, who is never the first.
CREATE TABLE approval (
    id          text PRIMARY KEY,
    number      bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    what        text NOT NULL CHECK (what IN ('grant', 'top_up')),
    project_id  text NOT NULL REFERENCES project,
    factory_id  text NOT NULL,
    permission  text NOT NULL,
    words       jsonb NOT NULL,
    amount      bigint NOT NULL,
    asked_by    text NOT NULL,
    asked_at    timestamptz NOT NULL,
    state       text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'approved', 'rejected')),
    decided_by  text CHECK (decided_by <> asked_by),
    decided_at  timestamptz,
    reason      text,
    allocation_id text,
    CHECK ((state = 'waiting') = (decided_by IS NULL))
);

-- A step of a use-or-lose policy happens once.
CREATE TABLE policy_step (
    allocation_number bigint NOT NULL REFERENCES allocation,
    step              text NOT NULL,
    amount            bigint NOT NULL CHECK (amount >= 0),
    taken_at          timestamptz NOT NULL,
    PRIMARY KEY (allocation_number, step)
);

-- What is known of a member beside the role: until when the contract runs, and the name at the site.
CREATE TABLE person (
    project_id       text NOT NULL REFERENCES project,
    subject          text NOT NULL,
    contract_ends_on date,
    local_user       text,
    revision         int NOT NULL DEFAULT 0,
    PRIMARY KEY (project_id, subject)
);

-- Work that left its award's machines: what the receiver gave, what the home allocation paid, and at which rate.
CREATE TABLE settlement (
    id                text PRIMARY KEY,
    number            bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    side              text NOT NULL CHECK (side IN ('home', 'receiver')),
    clearing          text NOT NULL,
    agreement         text NOT NULL,
    job_id            text NOT NULL,
    allocation_number bigint REFERENCES allocation,
    pool_id           text REFERENCES pool,
    resource          text NOT NULL,
    amount            bigint NOT NULL CHECK (amount >= 0),
    other_resource    text NOT NULL,
    other_amount      bigint NOT NULL CHECK (other_amount >= 0),
    numerator         int NOT NULL CHECK (numerator > 0),
    denominator       int NOT NULL CHECK (denominator > 0),
    settled_at        timestamptz NOT NULL,
    CHECK ((side = 'home') = (allocation_number IS NOT NULL))
);

-- Who changed what, when, why, from what, to what.
CREATE TABLE change_log (
    number     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    changed_at timestamptz NOT NULL,
    actor      text NOT NULL,
    action     text NOT NULL,
    thing      text NOT NULL,
    thing_id   text NOT NULL,
    project_id text,
    factory_id text NOT NULL,
    reason     text NOT NULL,
    before     jsonb,
    after      jsonb
);
CREATE INDEX change_log_by_thing ON change_log (thing, thing_id, number);
CREATE INDEX change_log_by_project ON change_log (project_id, number);

CREATE TRIGGER change_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON change_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER settlement_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON settlement
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
