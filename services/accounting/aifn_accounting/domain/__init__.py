"""The rules of accounting, pure: what may be held, what is charged, what goes back."""
