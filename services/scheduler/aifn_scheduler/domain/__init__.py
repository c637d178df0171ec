"""The rules of the scheduler: who may use what (access), what runs when (placement), how a job ends (lifecycle)."""
