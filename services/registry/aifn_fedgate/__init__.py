"""The gate between this member and the others: what leaves is signed, what enters is verified."""
