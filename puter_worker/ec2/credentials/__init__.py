"""How the credentials of AWS profiles are resolved: providers run in one place, and fail in one way."""
