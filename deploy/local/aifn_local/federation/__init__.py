"""A federation on this machine: members with brokers and databases of their own, relays, a mirror at each member."""
