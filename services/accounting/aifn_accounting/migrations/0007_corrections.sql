-- works-with: 0006
-- Corrections by hand, months settled between two factories, and a second person for the funding of pools.

ALTER TABLE account DROP CONSTRAINT account_role_check;
ALTER TABLE account ADD CONSTRAINT account_role_check CHECK (role IN (
    'funder', 'union_pool', 'national_pool', 'fund', 'mode_group',
    'available', 'held', 'consumed', 'overrun', 'expired', 'clearing', 'corrected', 'settled'
));

-- What was given back by hand is part of `granted`; `charged` stays what the records say.
ALTER TABLE allocation ADD COLUMN corrected bigint NOT NULL DEFAULT 0 CHECK (corrected >= 0);

-- A correction by hand, and which line of the statement it corrects: that of a charge, or of a correction before it.
-- `amount` above zero was given back to the allocation, below zero was taken back again. `transfer_id` is its own line,
-- `root` that of the charge it began with, `usage_number` the record of that, if it is for one.
CREATE TABLE correction (
    id                text PRIMARY KEY,
    number            bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    allocation_number bigint NOT NULL REFERENCES allocation,
    amount            bigint NOT NULL CHECK (amount <> 0),
    transfer_id       bigint NOT NULL UNIQUE,
    corrects_transfer bigint NOT NULL,
    corrects          text REFERENCES correction,
    root              bigint NOT NULL,
    usage_number      bigint,
    job_id            text,
    reason            text NOT NULL,
    corrected_by      text NOT NULL,
    approved_by       text CHECK (approved_by <> corrected_by),
    corrected_at      timestamptz NOT NULL,
    CHECK ((corrects IS NULL) = (amount > 0 AND root = corrects_transfer))
);
CREATE INDEX correction_by_allocation ON correction (allocation_number, number);
CREATE TRIGGER correction_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON correction
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- What stood in a clearing account at the end of a month, and was settled: `amount` is what the account held.
CREATE TABLE clearing_month (
    clearing   text NOT NULL,
    month      date NOT NULL CHECK (extract(day FROM month) = 1),
    resource   text NOT NULL,
    amount     bigint NOT NULL CHECK (amount <> 0),
    reason     text NOT NULL,
    settled_by text NOT NULL,
    settled_at timestamptz NOT NULL,
    PRIMARY KEY (clearing, month, resource)
);
CREATE TRIGGER clearing_month_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON clearing_month
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE INDEX settlement_by_clearing ON settlement (clearing, settled_at, number);

ALTER TABLE approval DROP CONSTRAINT approval_what_check;
ALTER TABLE approval ADD CONSTRAINT approval_what_check CHECK (what IN ('grant', 'top_up', 'correction', 'fund_pool'));
ALTER TABLE approval ALTER COLUMN project_id DROP NOT NULL;
ALTER TABLE approval ADD COLUMN pool_id text REFERENCES pool;
ALTER TABLE approval ADD CHECK ((project_id IS NULL) = (what = 'fund_pool'));
