"""What the scheduler does, one transaction each: `access`, `jobs` (their lives), `planning`, `machines`."""
