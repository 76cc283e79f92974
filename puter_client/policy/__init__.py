"""What the workers of a host let each namespace request: the file, its rules and the decision. Pure; no AWS SDK."""
