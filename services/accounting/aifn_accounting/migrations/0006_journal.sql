-- The log of everything that was heard and ordered, and the seals that chain the journal.

-- One row holds many messages of one topic, from arrival number `first` to `last`, or one order; `body` is compressed
-- already. `transaction` is the first number of those that were handled together, `seed` what ids were made from.
CREATE TABLE event_log (
    first       bigint PRIMARY KEY,
    last        bigint NOT NULL,
    transaction bigint NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('heard', 'set_aside', 'order')),
    received_at timestamptz NOT NULL,
    seed        bytea,
    body        bytea NOT NULL,
    CHECK (last >= first AND transaction <= first)
);
ALTER TABLE event_log ALTER COLUMN body SET STORAGE EXTERNAL;
CREATE TRIGGER event_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON event_log
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE SEQUENCE arrival_number;

-- So many numbers in a row; nobody else may take one in between. Held for a moment, not until the end.
CREATE FUNCTION take_arrival_numbers(count int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    first bigint;
BEGIN
    PERFORM pg_advisory_lock(1635018345);
    first := nextval('arrival_number');
    IF count > 1 THEN
        PERFORM setval('arrival_number', first + count - 1);
    END IF;
    PERFORM pg_advisory_unlock(1635018345);
    RETURN first;
END $$;

-- The journal is chained: a seal covers transfers up to an id and charges up to a place, and its digest is made from the
-- seal before it and from every row that it covers. Whoever changes, removes or inserts an old row breaks the chain.
CREATE TABLE journal_seal (
    number          bigint PRIMARY KEY CHECK (number > 0),
    transfers_after bigint NOT NULL,
    transfers_until bigint NOT NULL CHECK (transfers_until >= transfers_after),
    usage_after     bigint NOT NULL,
    usage_until     bigint NOT NULL CHECK (usage_until >= usage_after),
    covered         bigint NOT NULL CHECK (covered >= 0),
    sealed_at       timestamptz NOT NULL,
    digest          bytea NOT NULL CHECK (length(digest) = 32)
);
CREATE TRIGGER journal_seal_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON journal_seal
    FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The bytes that are sealed: a line for each row, in the order of the journal; a text that may hold anything stands with
-- its length. Local names of people are left out. The first seal has no lower bound: nothing can be put before it.
CREATE FUNCTION seal_digest(
    previous bytea, transfers_after bigint, transfers_until bigint, usage_after bigint, usage_until bigint
) RETURNS TABLE (covered bigint, digest bytea) LANGUAGE sql STABLE
SET timezone TO 'UTC' SET datestyle TO 'ISO, YMD' AS $$
WITH transfers AS (
    SELECT count(*) AS covered, coalesce(string_agg(line, E'\n'), '') AS lines FROM (
        SELECT concat(
            id, '|', allocation_number, '|', kind, '|', source, '|', target, '|', resource, '|', amount, '|', job_id, '|',
            usage_number, '|', recorded_at
        ) AS line
        FROM ledger_transfer WHERE id > coalesce(nullif($2, 0), -9223372036854775808) AND id <= $3 ORDER BY id
    ) AS ordered
), records AS (
    SELECT count(*) AS covered, coalesce(string_agg(line, E'\n'), '') AS lines FROM (
        SELECT concat(
            number, '|', machine_id, '|', octet_length(local_job_id), '|', local_job_id, '|', submitted_at, '|', segment, '|',
            revision, '|', job_id, '|', project_id, '|', partition_id, '|', pseudonym, '|', kind, '|', started_at, '|',
            ended_at, '|', nodes, '|', amounts, '|', recorded_at, '|', allocation_number, '|', charged, '|', rate_card
        ) AS line
        FROM usage_record WHERE number > coalesce(nullif($4, 0), -9223372036854775808) AND number <= $5 ORDER BY number
    ) AS ordered
), charges AS (
    SELECT count(*) AS covered, coalesce(string_agg(line, E'\n'), '') AS lines FROM (
        SELECT concat(usage_number, '|', allocation_number, '|', amount, '|', rate_card, '|', position) AS line
        FROM further_charge WHERE position > coalesce(nullif($4, 0), -9223372036854775808) AND position <= $5
        ORDER BY position, allocation_number, usage_number
    ) AS ordered
)
SELECT transfers.covered + records.covered + charges.covered, sha256(
    previous || convert_to(concat($2, ' ', $3, ' ', $4, ' ', $5, ' ', transfers.covered, ' ', records.covered), 'UTF8')
    || sha256(convert_to(transfers.lines, 'UTF8')) || sha256(convert_to(records.lines, 'UTF8'))
    || sha256(convert_to(charges.lines, 'UTF8'))
)
FROM transfers, records, charges
$$;

-- A transaction has its number before it takes an id for a transfer. So whoever sees that all transactions before some
-- number have ended knows that no id handed out before that can still appear: what lies below may be sealed.
CREATE FUNCTION have_transaction_number() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_current_xact_id();
    RETURN NULL;
END $$;
CREATE TRIGGER ledger_transfer_numbered BEFORE INSERT ON ledger_transfer
    FOR EACH STATEMENT EXECUTE FUNCTION have_transaction_number();
