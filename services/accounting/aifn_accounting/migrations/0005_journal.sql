-- The raw log of what was received, the chain of the journal, and usage in suspense.
SELECT 1;
