"""`python -m tests.chaos --help`."""

from tests.chaos.run import main

main()
