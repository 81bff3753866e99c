"""Draws cases, calls the functions under test, compares, and shows what fails."""
