-- Rates by rule, accounting periods, and gaps in what sites have sent.

-- What a record says of cores, devices, memory and energy, as far as it does; a charging rule may ask for it.
ALTER TABLE usage_record ADD COLUMN occupied text;

-- A card is known by its resource and the moment from which it holds: a later one takes over, so nothing is ever changed
-- here. `rule` as `domain/rates.py` reads it. `not_confirmed` names parameters for which no public source was found.
ALTER TABLE rate_card
    ADD COLUMN rule jsonb,
    ADD COLUMN version int NOT NULL DEFAULT 1 CHECK (version > 0),
    ADD COLUMN title text NOT NULL DEFAULT '',
    ADD COLUMN source text NOT NULL DEFAULT '',
    ADD COLUMN not_confirmed text[] NOT NULL DEFAULT '{}',
    ADD COLUMN published_by text NOT NULL DEFAULT 'aifn',
    ADD COLUMN published_at timestamptz NOT NULL DEFAULT now(),
    ADD CONSTRAINT one_card_from_a_moment UNIQUE (resource, valid_from);
CREATE TRIGGER rate_card_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON rate_card
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The part of an amount that falls between two moments, by seconds. Parts of bordering stretches sum to the whole: each is
-- the difference of two running sums, which are rounded down. What took no time falls where it happened.
CREATE FUNCTION usage_part(
    amount bigint, started timestamptz, ended timestamptz, since timestamptz, until timestamptz
) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
SELECT CASE
    WHEN started >= since AND ended <= until AND started < until THEN amount
    WHEN ended <= since OR started >= until THEN 0
    ELSE (
        div(amount * extract(epoch FROM least(ended, until) - started), extract(epoch FROM ended - started))
        - div(amount * extract(epoch FROM greatest(started, since) - started), extract(epoch FROM ended - started))
    )::bigint
END $$;

-- An accounting period is a month of the UTC calendar. A row: it is closed. `last_number` is the last usage record that
-- its totals know; whatever is heard later of that month stands in `period_entry`.
CREATE TABLE period (
    month         date PRIMARY KEY CHECK (extract(day FROM month) = 1),
    closed_at     timestamptz NOT NULL,
    closed_by     text NOT NULL,
    reason        text NOT NULL,
    last_number   bigint NOT NULL,
    holds_carried int NOT NULL,
    held_carried  bigint NOT NULL,
    gaps_accepted int NOT NULL,
    digest        text NOT NULL
);

CREATE TABLE period_total (
    month             date NOT NULL REFERENCES period,
    allocation_number bigint NOT NULL REFERENCES allocation,
    resource          text NOT NULL,
    amount            bigint NOT NULL CHECK (amount >= 0),
    records           bigint NOT NULL CHECK (records >= 0),
    PRIMARY KEY (month, allocation_number)
);

-- What a record that was heard after the closing changes in a closed month. `corrects` is the number of the revision it
-- takes the place of; `recorded_in` the open month on whose statement it stands.
CREATE TABLE period_entry (
    number            bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    month             date NOT NULL REFERENCES period,
    recorded_in       date NOT NULL CHECK (recorded_in > month),
    kind              text NOT NULL CHECK (kind IN ('late', 'correction')),
    usage_number      bigint NOT NULL,
    corrects          bigint,
    allocation_number bigint NOT NULL,
    resource          text NOT NULL,
    change            bigint NOT NULL CHECK (change <> 0),
    posted_at         timestamptz NOT NULL,
    CHECK ((corrects IS NULL) = (kind = 'late')),
    UNIQUE (month, usage_number, allocation_number)
);

CREATE TRIGGER period_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON period
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER period_total_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON period_total
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER period_entry_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON period_entry
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- When a job's budget was held: a month cannot be closed over a hold that was taken in it.
CREATE INDEX ledger_transfer_hold_of_job ON ledger_transfer (job_id) WHERE kind = 'hold';

-- Up to which usage record the days and the closed periods were looked at, and when the first run of those began.
CREATE TABLE usage_watch (
    one           boolean PRIMARY KEY DEFAULT true CHECK (one),
    last_number   bigint NOT NULL,
    first_started timestamptz
);
INSERT INTO usage_watch (last_number) VALUES (0);

-- Site-days of which something was heard and that are to be compared with what the site has stated, once that is a while
-- ago.
CREATE TABLE usage_day_due (
    machine_id text NOT NULL,
    day        date NOT NULL,
    heard_at   timestamptz NOT NULL,
    PRIMARY KEY (machine_id, day)
);

-- A site-day that did not match: what was missing when it was last looked at. At most one is open for each day.
CREATE TABLE usage_gap (
    number             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    machine_id         text NOT NULL,
    day                date NOT NULL,
    reason             text NOT NULL,
    statement_revision int,
    stated_records     int,
    records            int NOT NULL,
    overlapping        int NOT NULL,
    opened_at          timestamptz NOT NULL,
    looked_at          timestamptz NOT NULL,
    closed_at          timestamptz
);
CREATE UNIQUE INDEX usage_gap_open ON usage_gap (machine_id, day) WHERE closed_at IS NULL;
CREATE INDEX usage_gap_by_day ON usage_gap (machine_id, day);
