-- Jobs that go to another factory, and jobs of another factory that come here.

-- Under which two factories exchange hours, and at which rate: one unit of `resource` costs numerator / denominator of
-- `home_resource`. Both factories keep it; `guest_project` and `pool_id` mean something at the receiver only.
CREATE TABLE exchange_agreement (
    agreement_id  text PRIMARY KEY,
    home          text NOT NULL,
    receiver      text NOT NULL CHECK (receiver <> home),
    home_resource text NOT NULL,
    resource      text NOT NULL,
    numerator     int NOT NULL CHECK (numerator > 0),
    denominator   int NOT NULL CHECK (denominator > 0),
    guest_project text,
    pool_id       text,
    starts_at     timestamptz NOT NULL,
    ends_at       timestamptz NOT NULL CHECK (ends_at > starts_at),
    agreed_by     text NOT NULL
);

-- What other members say their partitions have free.
CREATE TABLE peer_capacity (
    partition_id text PRIMARY KEY,
    origin       text NOT NULL,
    observed_at  timestamptz NOT NULL,
    nodes_idle   int NOT NULL CHECK (nodes_idle >= 0)
);

-- What this factory knows of one hand-over: the steps of each side, in the order in which that side took them.
CREATE TABLE handover (
    handover_id    text PRIMARY KEY,
    side           text NOT NULL CHECK (side IN ('home', 'receiver')),
    home           text NOT NULL,
    receiver       text NOT NULL,
    agreement_id   text NOT NULL REFERENCES exchange_agreement,
    job_id         text NOT NULL REFERENCES job,
    allocation_id  text,
    machine_id     text NOT NULL,
    partition_id   text NOT NULL,
    resource       text NOT NULL,
    nodes          int NOT NULL CHECK (nodes > 0),
    slices         int NOT NULL CHECK (slices > 0),
    held           bigint NOT NULL CHECK (held > 0),
    answer_by      timestamptz NOT NULL,
    end_by         timestamptz NOT NULL,
    asked          boolean NOT NULL,
    home_steps     text[] NOT NULL,
    receiver_steps text[] NOT NULL,
    reason         text CHECK (reason IN ('rejected', 'cancelled', 'expired')),
    used           bigint CHECK (used BETWEEN 0 AND held),
    ended_at       timestamptz,
    CHECK ((reason IS NOT NULL) = ('voided' = ANY(home_steps))),
    CHECK (NOT ('voided' = ANY(home_steps) AND 'confirmed' = ANY(home_steps))),
    CHECK ((used IS NOT NULL) = ('finished' = ANY(receiver_steps)))
);
CREATE INDEX handover_by_job ON handover (job_id);
CREATE INDEX handover_open ON handover (answer_by) WHERE ended_at IS NULL;

-- One final state, whatever is heard afterwards.
CREATE FUNCTION keep_handover_end() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'handover % has ended and stays so', OLD.handover_id USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER handover_final_state BEFORE UPDATE ON handover FOR EACH ROW
    WHEN (OLD.ended_at IS NOT NULL AND (NEW.home_steps, NEW.reason, NEW.used, NEW.ended_at)
          IS DISTINCT FROM (OLD.home_steps, OLD.reason, OLD.used, OLD.ended_at))
    EXECUTE FUNCTION keep_handover_end();
