-- works-with: 0006
-- The highest number that a usage record or a charge has. A function, for the sake of its setting: a connection keeps
-- the plan of a statement, and one that was made while the tables were empty would read them whole ever after.
CREATE FUNCTION last_usage_number() RETURNS bigint LANGUAGE sql STABLE SET enable_seqscan = off AS $$
    SELECT greatest((SELECT max(number) FROM usage_record), (SELECT max(position) FROM further_charge), 0)
$$;
