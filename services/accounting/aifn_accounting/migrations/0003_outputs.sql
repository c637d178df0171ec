-- What leaves accounting: subscriptions of webhooks and the log of their deliveries.
SELECT 1;
