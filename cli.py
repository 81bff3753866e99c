"""Run xnor_ref from a checkout: `python cli.py train`. Once installed, the command is `xnor-ref`."""

import sys

from xnor_ref.cli import main

if __name__ == "__main__":
    sys.exit(main())
