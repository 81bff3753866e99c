"""Exercises that check themselves: `xnor-ref check LESSON FILE`, and `pytest --lesson LESSON FILE`."""
