"""The run store: one SQLite file in WAL mode that survives kills and resumes runs."""
