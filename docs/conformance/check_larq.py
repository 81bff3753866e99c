# python3.11 -m venv larq && larq/bin/pip install larq==0.13.3 tensorflow-cpu==2.15.1 'numpy<2'
import sys
from pathlib import Path

from xnor_ref import conformance as c

larq = c.program([sys.argv[1], Path(__file__).with_name("larq_program.py")], keep=True)

if __name__ == "__main__":  # python check_larq.py larq/bin/python
    print(c.Kit(conv2d=larq, linear=larq, paddings=("same", 0)).run(seed=0))
