"""Generated from `protos/` by `make protos`: edit there, not here."""
