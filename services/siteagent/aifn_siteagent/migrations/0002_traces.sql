-- works-with: 0001
-- The trace in which a job was sent here, so that what happens to it by the clock belongs to the same one.
ALTER TABLE job ADD COLUMN traceparent text;
