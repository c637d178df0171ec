-- What awards of this factory's projects name at other factories: there a job may go without an exchange of hours.

CREATE TABLE award_scope (
    award_id     text NOT NULL,
    project_id   text NOT NULL,
    factory_id   text NOT NULL,
    machine_id   text NOT NULL,
    partition_id text NOT NULL,
    resource     text NOT NULL,
    starts_at    timestamptz NOT NULL,
    ends_at      timestamptz NOT NULL CHECK (ends_at > starts_at),
    PRIMARY KEY (award_id, partition_id)
);
CREATE INDEX award_scope_by_project ON award_scope (project_id);

-- A hand-over is under an agreement, or within the scope of its project's own award.
ALTER TABLE handover ALTER COLUMN agreement_id DROP NOT NULL;
ALTER TABLE handover ADD COLUMN award_id text;
ALTER TABLE handover ADD CHECK ((agreement_id IS NULL) <> (award_id IS NULL));
