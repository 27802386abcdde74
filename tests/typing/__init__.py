"""Programs that use the library, for type checkers; `make lint` runs them."""
