"""The rules of the registry, pure: passports, and reports of capacity."""
