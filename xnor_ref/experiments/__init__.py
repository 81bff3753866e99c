"""The papers' tables and figures as small recipes over the training loop, for `cli.py reproduce`."""
