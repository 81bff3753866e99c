# python3.11 -m venv larq
# larq/bin/pip install larq-compute-engine==0.16.0 larq==0.13.3 tensorflow-cpu==2.15.1 'numpy<2'
import sys
from pathlib import Path

from xnor_ref import conformance as c

PROGRAM = Path(__file__).with_name("larq_engine_program.py")
ANY, COVERED = {}, {"image_covers_kernel": True}
RUNS = [("reference", {"channels": c.multiple_of(2)})]  # with zeros around images it takes even numbers
RUNS += [(kernel, limits) for kernel in ("indirect", "default") for limits in (ANY, COVERED)]

if __name__ == "__main__":  # python check_larq_engine.py larq/bin/python
    for kernel, limits in RUNS:
        engine = c.program([sys.argv[1], PROGRAM, kernel], keep=True)
        kit = c.Kit(conv2d=engine, kernels=(1, 3), paddings=("same", 0), largest_dot=20_000, **limits)
        print(f"{kernel} kernel, {limits}\n{kit.run(examples=50, seed=0)}\n", flush=True)
