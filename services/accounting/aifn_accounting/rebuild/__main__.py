"""`python -m aifn_accounting.rebuild`: the same command where there is no `aifn`, as in the service's image."""

from aifn_accounting.rebuild.command import main

main()
