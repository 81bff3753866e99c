"""Run the command line: `python -m xnor_ref` is the same as `xnor-ref`."""

import sys

from xnor_ref.cli import main

if __name__ == "__main__":
    sys.exit(main())
