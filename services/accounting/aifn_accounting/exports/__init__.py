"""What others' programs read: tables, FOCUS, OGF usage records, Open OnDemand. Each module is one format, and pure."""
