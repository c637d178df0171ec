"""What the gate does: tell, take in, repair."""
