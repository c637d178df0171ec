-- Read models: what others told us. -------------------------------------------------------------------------------

CREATE TABLE machine (
    machine_id text PRIMARY KEY,
    revision   int NOT NULL CHECK (revision >= 0),
    retired    boolean NOT NULL
);

-- A null is not known, never zero.
CREATE TABLE partition (
    partition_id     text PRIMARY KEY,
    machine_id       text NOT NULL REFERENCES machine,
    kind             text NOT NULL,
    stage            text NOT NULL,
    nodes            int,
    devices_per_node int,
    gpus_per_node    int,
    cores_per_node   int,
    software_stack   text,
    resource         text NOT NULL,
    units_per_node   int NOT NULL CHECK (units_per_node > 0),
    retired          boolean NOT NULL
);

-- No reference to partition: a report may come before the machine's passport.
CREATE TABLE capacity (
    partition_id     text PRIMARY KEY,
    machine_id       text NOT NULL,
    observed_at      timestamptz NOT NULL,
    nodes_in_service int NOT NULL CHECK (nodes_in_service >= 0)
);

CREATE TABLE allocation (
    allocation_id text PRIMARY KEY,
    project_id    text NOT NULL,
    machine_id    text NOT NULL,
    partition_id  text NOT NULL,
    resource      text NOT NULL,
    starts_at     timestamptz NOT NULL,
    ends_at       timestamptz NOT NULL,
    revision      int NOT NULL
);
CREATE INDEX allocation_by_project ON allocation (project_id);

-- Access. ---------------------------------------------------------------------------------------------------------

CREATE TABLE call (
    call_id            text PRIMARY KEY,
    mode               text NOT NULL,
    policy_version     text NOT NULL,
    pool               text NOT NULL CHECK (pool IN ('union', 'national')),
    deciding_authority text NOT NULL,
    technical_check    text NOT NULL CHECK (technical_check IN ('automatic', 'manual')),
    opens_at           timestamptz NOT NULL,
    closes_at          timestamptz CHECK (closes_at > opens_at),
    partitions         text[],
    single_machine     boolean NOT NULL,
    source             text NOT NULL,
    inference_cap_pct  int CHECK (inference_cap_pct BETWEEN 0 AND 100)
);

CREATE SEQUENCE project_number;

-- `place` is the order of submission: who came first is served first.
CREATE TABLE application (
    application_id text PRIMARY KEY,
    place          bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    call_id        text NOT NULL REFERENCES call,
    title          text NOT NULL,
    organisation   jsonb NOT NULL,
    asks           jsonb NOT NULL,
    months         int NOT NULL CHECK (months > 0),
    statements     jsonb NOT NULL,
    contact        text,
    submitted_by   text NOT NULL,
    submitted_at   timestamptz NOT NULL,
    decided_at     timestamptz NOT NULL,
    eligible       boolean NOT NULL,
    findings       jsonb NOT NULL,
    award_id       text UNIQUE,
    project_id     text UNIQUE,
    awarded_at     timestamptz,
    awarded_by     text,
    award_reason   text,
    CHECK (award_id IS NULL OR eligible),
    CHECK (num_nulls(award_id, project_id, awarded_at, awarded_by, award_reason) IN (0, 5))
);
CREATE INDEX application_by_person ON application (submitted_by, place);
CREATE INDEX application_waiting ON application (call_id, place) WHERE eligible AND award_id IS NULL;

-- Placement. ------------------------------------------------------------------------------------------------------

CREATE TABLE job (
    job_id           text PRIMARY KEY,
    place            bigint GENERATED ALWAYS AS IDENTITY UNIQUE,
    project_id       text NOT NULL,
    name             text NOT NULL,
    submitted_by     text NOT NULL,
    wanted_partition text,
    size_kind        text NOT NULL CHECK (size_kind IN ('devices', 'cores', 'nodes')),
    size_count       int NOT NULL CHECK (size_count > 0),
    walltime_seconds int NOT NULL CHECK (walltime_seconds > 0),
    script           text NOT NULL,
    software_stack   text NOT NULL CHECK (software_stack IN ('any', 'cuda', 'rocm')),
    state            text NOT NULL DEFAULT 'queued'
                     CHECK (state IN ('queued', 'placed', 'dispatched', 'running', 'closed')),
    outcome          text CHECK (outcome IN ('completed', 'failed', 'timeout', 'cancelled', 'refused')),
    reason           text NOT NULL DEFAULT '',
    segments         int NOT NULL DEFAULT 0 CHECK (segments >= 0),
    runs             int NOT NULL DEFAULT 0 CHECK (runs >= 0),
    revision         int NOT NULL DEFAULT 0 CHECK (revision >= 0),
    machine_id       text,
    partition_id     text,
    resource         text,
    nodes            int CHECK (nodes > 0),
    slices           int CHECK (slices > 0),
    amount           bigint CHECK (amount > 0),
    planned_start    timestamptz,
    planned_on       text,
    explanation      jsonb,
    cancel_asked_at  timestamptz,
    cancel_reason    text NOT NULL DEFAULT '',
    submitted_at     timestamptz NOT NULL,
    placed_at        timestamptz,
    held_at          timestamptz,
    dispatched_at    timestamptz,
    started_at       timestamptz,
    last_started_at  timestamptz,
    ended_at         timestamptz,
    closed_at        timestamptz,
    CHECK ((state = 'closed') = (outcome IS NOT NULL)),
    CHECK ((state = 'closed') = (closed_at IS NOT NULL)),
    CHECK (state IN ('queued', 'closed') OR placed_at IS NOT NULL),
    CHECK (state NOT IN ('dispatched', 'running') OR dispatched_at IS NOT NULL),
    CHECK (num_nulls(placed_at, machine_id, partition_id, resource, nodes, slices, amount) IN (0, 7))
) WITH (fillfactor = 70);
CREATE INDEX job_waiting ON job (place) WHERE state = 'queued';
CREATE INDEX job_holding ON job (partition_id) WHERE state IN ('placed', 'dispatched', 'running');
CREATE INDEX job_by_project ON job (project_id, place);

-- A final state is final, whoever writes.
CREATE FUNCTION keep_final_state() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'job % was closed as % and stays so', OLD.job_id, OLD.outcome USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER job_final_state BEFORE UPDATE ON job FOR EACH ROW
    WHEN (OLD.state = 'closed' AND (NEW.state, NEW.outcome, NEW.segments, NEW.closed_at)
          IS DISTINCT FROM (OLD.state, OLD.outcome, OLD.segments, OLD.closed_at))
    EXECUTE FUNCTION keep_final_state();
