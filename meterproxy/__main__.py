"""`meterproxy` and `python -m meterproxy`."""

import sys

from meterproxy.cli.root import run


def main() -> None:
    """Run the command line and exit with its status."""
    sys.exit(run())


if __name__ == "__main__":
    main()
