-- Datasets on offer, who asked for them, and what must be known of allocations and machines to decide.

CREATE TABLE dataset (
    id text PRIMARY KEY,
    revision integer NOT NULL CHECK (revision >= 0),
    factory_id text NOT NULL,
    title text NOT NULL,
    description text NOT NULL,
    licence text NOT NULL,
    sensitivity text NOT NULL CHECK (sensitivity IN ('open', 'internal', 'personal', 'confidential')),
    grade text NOT NULL CHECK (grade IN ('open', 'data_space', 'industrial')),
    residency text[] NOT NULL,
    location text NOT NULL,
    size_bytes bigint CHECK (size_bytes >= 0),
    legal_basis text,
    contact text NOT NULL,
    retired boolean NOT NULL DEFAULT false,
    changed_at timestamptz NOT NULL,
    words tsvector GENERATED ALWAYS AS (to_tsvector('simple', id || ' ' || title || ' ' || description)) STORED,
    CHECK (sensitivity <> 'personal' OR (legal_basis IS NOT NULL AND cardinality(residency) > 0))
);

CREATE INDEX dataset_words ON dataset USING gin (words);

CREATE TABLE machine (
    id text PRIMARY KEY,
    revision integer NOT NULL,
    country text
);

-- An allocation may be heard of before its project or its machine: no foreign keys.
CREATE TABLE allocation (
    id text PRIMARY KEY,
    project_id text NOT NULL,
    machine_id text NOT NULL,
    ends_at timestamptz NOT NULL,
    revision int NOT NULL
);

CREATE INDEX allocation_project ON allocation (project_id);
CREATE INDEX allocation_machine ON allocation (machine_id);

CREATE TABLE access_request (
    id text PRIMARY KEY,
    dataset_id text NOT NULL REFERENCES dataset (id),
    project_id text NOT NULL,
    factory_id text NOT NULL,
    purpose text NOT NULL,
    legal_basis text,
    requested_by text NOT NULL,
    requested_at timestamptz NOT NULL,
    state text NOT NULL CHECK (state IN ('pending', 'granted', 'refused')),
    waits_for text CHECK (waits_for IN ('steward', 'allocation')),
    findings jsonb NOT NULL,
    decided_by text CHECK (decided_by IN ('rule', 'steward')),
    steward text,
    steward_reason text,
    decided_at timestamptz,
    expires_at timestamptz,
    CHECK ((state = 'pending') = (waits_for IS NOT NULL)),
    CHECK ((state = 'pending') = (decided_at IS NULL)),
    CHECK ((decided_by = 'steward') = (steward IS NOT NULL) OR decided_by IS NULL)
);

CREATE UNIQUE INDEX access_request_open ON access_request (project_id, dataset_id) WHERE state = 'pending';
CREATE INDEX access_request_project ON access_request (project_id, dataset_id);
CREATE INDEX access_request_dataset ON access_request (dataset_id) WHERE state = 'pending';
