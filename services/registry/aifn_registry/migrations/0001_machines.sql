-- Who is in the network, with which machines, and what their batch systems could take when last seen.

CREATE TABLE factory (
    factory_id           text PRIMARY KEY,
    kind                 text NOT NULL CHECK (kind IN ('factory', 'antenna')),
    name                 text NOT NULL,
    country              text NOT NULL,
    hosting_entity       text,
    linked_factory_ids   text[],
    consortium_countries text[] NOT NULL,
    primary_machine_id   text,
    interim_machine_ids  text[] NOT NULL,
    selection_round      int,
    selected_on          text,
    sectors              text[],
    sectors_basis        text,
    focus_keywords       text[] NOT NULL,
    experimental_platform boolean,
    source               text[] NOT NULL,
    confidence           text NOT NULL,
    notes                text,
    revision             int NOT NULL CHECK (revision >= 0),
    retired              boolean NOT NULL,
    retired_reason       text
);

CREATE TABLE machine (
    machine_id         text PRIMARY KEY,
    name               text NOT NULL,
    country            text,
    stage              text NOT NULL,
    factory_ids        text[] NOT NULL,
    aliases            text[] NOT NULL,
    site               text,
    hosting_entity     text,
    machine_class      text,
    stage_detail       text,
    union_share_pct    int CHECK (union_share_pct BETWEEN 0 AND 100),
    national_share_pct int CHECK (national_share_pct BETWEEN 0 AND 100),
    share_basis        text,
    batch_scheduler    text,
    figures            jsonb NOT NULL,
    source             text[] NOT NULL,
    confidence         text NOT NULL,
    notes              text,
    revision           int NOT NULL CHECK (revision >= 0),
    retired            boolean NOT NULL,
    retired_reason     text
);

-- resource and units_per_node follow from the counts by a rule of the domain; they are kept for those who read here.
CREATE TABLE partition (
    partition_id        text PRIMARY KEY,
    machine_id          text NOT NULL REFERENCES machine,
    position            int NOT NULL,
    name                text NOT NULL,
    kind                text NOT NULL,
    stage               text NOT NULL,
    nodes               int CHECK (nodes >= 0),
    devices_per_node    int CHECK (devices_per_node >= 0),
    gpus_per_node       int CHECK (gpus_per_node >= 0),
    cores_per_node      int CHECK (cores_per_node >= 0),
    gpu_vendor          text,
    gpu_model           text,
    gpu_memory_gb       int CHECK (gpu_memory_gb >= 0),
    software_stack      text,
    cpu_arch            text,
    cpu_model           text,
    memory_gib_per_node int CHECK (memory_gib_per_node >= 0),
    billing_rule        text,
    figures             jsonb NOT NULL,
    source              text[] NOT NULL,
    confidence          text NOT NULL,
    notes               text,
    unit_fixed          boolean NOT NULL,
    resource            text NOT NULL UNIQUE,
    units_per_node      int NOT NULL CHECK (units_per_node >= 1)
);
CREATE INDEX partition_machine ON partition (machine_id, position);

-- The latest observation of each partition.
CREATE TABLE capacity (
    partition_id     text PRIMARY KEY REFERENCES partition ON DELETE CASCADE,
    observed_at      timestamptz NOT NULL,
    received_at      timestamptz NOT NULL,
    source           text NOT NULL,
    backend          text NOT NULL,
    nodes_in_service int NOT NULL CHECK (nodes_in_service >= 0),
    nodes_idle       int NOT NULL CHECK (nodes_idle BETWEEN 0 AND nodes_in_service),
    slices_idle      int NOT NULL CHECK (slices_idle >= 0),
    jobs_running     int NOT NULL CHECK (jobs_running >= 0),
    jobs_waiting     int NOT NULL CHECK (jobs_waiting >= 0)
);

-- Tables of the first day's data that nobody changes by API: the sector matrix, the comparison.
CREATE TABLE reference (
    name    text PRIMARY KEY,
    content jsonb NOT NULL
);
