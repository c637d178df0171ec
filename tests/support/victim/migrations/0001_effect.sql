-- One row for each effect an event had: a doubled one shows as a second row.

CREATE TABLE effect (
    id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic   text NOT NULL,
    what    text NOT NULL,
    worker  text NOT NULL
);

-- What a batch has charged: the events' own identity keeps a repeated one out.
CREATE TABLE charge (
    what    text PRIMARY KEY,
    amount  bigint NOT NULL
);
CREATE TABLE total (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    amount  bigint NOT NULL DEFAULT 0
);
INSERT INTO total DEFAULT VALUES;
