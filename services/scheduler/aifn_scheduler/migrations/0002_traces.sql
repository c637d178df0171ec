-- works-with: 0001
-- The trace in which a job was submitted, so that what is done with it later by the clock belongs to the same one.
ALTER TABLE job ADD COLUMN traceparent text;
