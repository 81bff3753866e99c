"""The exercises of the twelve lessons, three in each."""
