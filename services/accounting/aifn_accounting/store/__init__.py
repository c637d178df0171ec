"""All SQL of accounting: rows in, values of the rules out. No decisions."""
