"""What people and scripts hold of the network: a typed HTTP client, and the `aifn` command."""
