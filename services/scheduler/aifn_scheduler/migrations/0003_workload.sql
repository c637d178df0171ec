-- works-with: 0001
-- What kind of work a job is, if its owner said so; accounting meters inference apart.
ALTER TABLE job ADD COLUMN workload text
    CHECK (workload IN ('training', 'fine_tuning', 'inference', 'other'));
