-- Usage that no allocation can pay yet: the record stands among the others, and waits here for its charge. `project_id`
-- is as it was reported, or as somebody said since.
CREATE TABLE suspense (
    usage_number  bigint PRIMARY KEY,
    project_id    text NOT NULL,
    since         timestamptz NOT NULL,
    attributed_by text,
    attributed_at timestamptz,
    reason        text,
    settled_at    timestamptz
);
CREATE INDEX suspense_waiting ON suspense (project_id) WHERE settled_at IS NULL;
