-- Who decides where: an award of an authority that has no machine goes to the factory that operates it.

ALTER TABLE machine ADD COLUMN factory_ids text[] NOT NULL DEFAULT '{}';

-- Null until the other members have been told of the call.
ALTER TABLE call ADD COLUMN published_at timestamptz;
