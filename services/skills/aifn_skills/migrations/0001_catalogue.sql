-- What can be learnt, who sits where, what was heard of awards and machines, and the advice that followed.

CREATE TABLE course (
    id text PRIMARY KEY,
    revision integer NOT NULL CHECK (revision >= 0),
    factory_id text NOT NULL,
    title text NOT NULL,
    description text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('workshop', 'mooc', 'hands_on', 'sandbox')),
    level text NOT NULL CHECK (level IN ('entry', 'hpc_familiar', 'expert')),
    topics text[] NOT NULL,
    prerequisites text[] NOT NULL,
    language text NOT NULL,
    hours integer NOT NULL CHECK (hours > 0),
    example boolean NOT NULL,
    words tsvector NOT NULL
);

CREATE INDEX course_words ON course USING gin (words);

CREATE TABLE session (
    id text PRIMARY KEY,
    course_id text NOT NULL REFERENCES course (id),
    factory_id text NOT NULL,
    title text NOT NULL,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL CHECK (ends_at > starts_at),
    teaching text NOT NULL CHECK (teaching IN ('online', 'onsite')),
    seats integer NOT NULL CHECK (seats > 0),
    taken integer NOT NULL DEFAULT 0 CHECK (taken BETWEEN 0 AND seats)
);

CREATE INDEX session_course ON session (course_id);
CREATE INDEX session_start ON session (starts_at, id);

CREATE TABLE seat (
    session_id text NOT NULL REFERENCES session (id),
    subject text NOT NULL,
    booked_at timestamptz NOT NULL,
    PRIMARY KEY (session_id, subject)
);

CREATE INDEX seat_subject ON seat (subject);

CREATE TABLE advice_rule (
    id text PRIMARY KEY,
    course_id text NOT NULL REFERENCES course (id),
    because text NOT NULL,
    gpu_vendor text,
    mode text
);

CREATE TABLE machine (
    id text PRIMARY KEY,
    revision integer NOT NULL,
    vendors jsonb NOT NULL
);

CREATE TABLE award (
    id text PRIMARY KEY,
    project_id text NOT NULL,
    factory_id text NOT NULL,
    mode text NOT NULL,
    granted_at timestamptz NOT NULL,
    cause_topic text NOT NULL,
    cause_id text NOT NULL,
    cause_source text NOT NULL
);

CREATE INDEX award_project ON award (project_id);

-- An award may name a machine that is not known yet: no foreign key.
CREATE TABLE award_line (
    award_id text NOT NULL REFERENCES award (id),
    machine_id text NOT NULL,
    partition_id text NOT NULL,
    PRIMARY KEY (award_id, machine_id, partition_id)
);

CREATE INDEX award_line_machine ON award_line (machine_id);

CREATE TABLE suggestion (
    id text PRIMARY KEY,
    project_id text NOT NULL,
    factory_id text NOT NULL,
    course_id text NOT NULL REFERENCES course (id),
    rule text NOT NULL,
    because text NOT NULL,
    cause_topic text NOT NULL,
    cause_id text NOT NULL,
    cause_source text NOT NULL,
    award_id text NOT NULL REFERENCES award (id),
    suggested_at timestamptz NOT NULL,
    UNIQUE (project_id, course_id, rule)
);
