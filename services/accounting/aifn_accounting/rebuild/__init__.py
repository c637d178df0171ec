"""Makes the books anew from the event log, and compares them with what they are."""
