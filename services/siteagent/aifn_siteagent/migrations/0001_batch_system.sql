-- The machine this agent speaks for, its partitions, the jobs in its batch system, and what they used.

-- advanced_until: the instant up to which everything that happened has been recorded and announced. The row is locked
-- by whoever changes anything below, so that jobs come and go in one order.
CREATE TABLE machine (
    machine_id     text PRIMARY KEY,
    revision       int NOT NULL,
    advanced_until timestamptz NOT NULL
);

-- described_nodes: by the passport, null if unknown there. withdrawn: no longer in the passport. nodes_in_service: the
-- number with which the batch system was last followed. reported_at: last capacity report.
CREATE TABLE partition (
    partition_id     text PRIMARY KEY,
    resource         text NOT NULL,
    units_per_node   int NOT NULL CHECK (units_per_node > 0),
    described_nodes  int CHECK (described_nodes >= 0),
    withdrawn        boolean NOT NULL DEFAULT false,
    nodes_in_service int NOT NULL DEFAULT 0 CHECK (nodes_in_service >= 0),
    reported_at      timestamptz
);

-- outcome is null while the job waits (started_at null) or runs. slices: occupied, on all nodes together.
CREATE TABLE job (
    local_job_id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id                text NOT NULL UNIQUE,
    project_id            text NOT NULL,
    partition_id          text NOT NULL REFERENCES partition,
    resource              text NOT NULL,
    local_user            text NOT NULL,
    nodes                 int NOT NULL CHECK (nodes > 0),
    slices                bigint NOT NULL CHECK (slices > 0),
    walltime_seconds      int NOT NULL CHECK (walltime_seconds > 0),
    run_seconds           int NOT NULL CHECK (run_seconds >= 0),
    exit_code             int NOT NULL,
    requeue_after_seconds int CHECK (requeue_after_seconds > 0),
    segment               int NOT NULL DEFAULT 0,
    submitted_at          timestamptz NOT NULL,
    cancel_at             timestamptz,
    cancel_reason         text NOT NULL DEFAULT '',
    started_at            timestamptz,
    ends_at               timestamptz,
    on_nodes              int[] NOT NULL DEFAULT '{}',
    outcome               text,
    ended_at              timestamptz,
    segments              int,
    CHECK ((outcome IS NULL) = (ended_at IS NULL)),
    CHECK ((started_at IS NULL) = (ends_at IS NULL))
);
CREATE INDEX job_alive ON job (partition_id) WHERE outcome IS NULL;

-- Wishes to cancel that came before their job.
CREATE TABLE early_cancel (
    job_id text PRIMARY KEY,
    reason text NOT NULL
);

-- One row per run segment, as it was reported; `day` is the UTC day in which it ended.
CREATE TABLE usage_record (
    local_job_id bigint NOT NULL REFERENCES job,
    submitted_at timestamptz NOT NULL,
    segment      int NOT NULL,
    revision     int NOT NULL,
    resource     text NOT NULL,
    amount       bigint NOT NULL CHECK (amount >= 0),
    day          date NOT NULL,
    PRIMARY KEY (local_job_id, submitted_at, segment)
);
CREATE INDEX usage_record_by_day ON usage_record (day);

-- revision and stated_at: of the last statement, null before the first. changed: something came after it.
CREATE TABLE usage_day (
    day       date PRIMARY KEY,
    changed   boolean NOT NULL,
    revision  int,
    stated_at timestamptz
);
CREATE INDEX usage_day_changed ON usage_day (day) WHERE changed;
