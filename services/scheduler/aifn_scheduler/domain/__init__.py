"""The rules of the scheduler: access, admission of jobs, their placement on a profile of free slices, lifecycle."""
