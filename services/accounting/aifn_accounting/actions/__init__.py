"""What accounting does: one transaction each, in the order read, decide, write, announce."""
