-- Rates by rule, accounting periods, and gaps in what sites have sent.
SELECT 1;
