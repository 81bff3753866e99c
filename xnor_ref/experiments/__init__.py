"""The papers' tables and figures as series of training runs, for `cli.py reproduce`."""
