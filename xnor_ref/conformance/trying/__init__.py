"""Drawing cases, calling the functions under test, comparing, and showing failures."""
