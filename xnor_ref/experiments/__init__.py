"""The papers' tables and figures as small recipes over the training loop, for `cli.py reproduce`.

`catalogue` says what each experiment trains, `plan` turns it into the configs and folders of its runs, `execute` trains
what is not there yet, `estimate` measures what that would cost, `report` and `plot` put the results beside the paper's.
"""
