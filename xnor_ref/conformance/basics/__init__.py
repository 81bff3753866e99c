"""The parts of the kit that do not need Hypothesis: roles, conventions, restrictions, arrays, definitions, reports."""
