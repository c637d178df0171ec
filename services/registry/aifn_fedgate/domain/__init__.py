"""What the gate decides: is this envelope believed, is anything missing, does the peer say two things at once."""
