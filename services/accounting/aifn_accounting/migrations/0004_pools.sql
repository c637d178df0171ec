-- Pools, caps, approvals and the trail of changes.
SELECT 1;
