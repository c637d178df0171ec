"""`python -m benchmarks [NAME]`: run one measurement or all of them."""

import importlib
import pkgutil
import sys

import benchmarks
from benchmarks.figures import keep, show

NOT_MEASUREMENTS = {"__main__", "figures"}


def names() -> list[str]:
    """The measurements there are."""
    found = {module.name for module in pkgutil.iter_modules(benchmarks.__path__)}
    return sorted(found - NOT_MEASUREMENTS)


def main(arguments: list[str]) -> int:
    """Run what was asked for; 2 if there is no such measurement."""
    wanted = arguments or names()
    unknown = set(wanted) - set(names())
    if unknown:
        print(f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(names())}", file=sys.stderr)
        return 2
    for name in wanted:
        figures = importlib.import_module(f"benchmarks.{name}").run()
        show(name, figures)
        print(f"written to {keep(name, figures)}")
    return 0


sys.exit(main(sys.argv[1:]))
