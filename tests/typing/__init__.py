"""What type checkers say of programs that use the library; run by `make lint`."""
