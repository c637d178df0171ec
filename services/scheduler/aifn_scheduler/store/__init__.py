"""All SQL of the scheduler: `machines` (what others told), `access` and `placement` (its two stories)."""
