"""The terms of the kit, without Hypothesis: roles, conventions, restrictions, arrays, definitions, reports."""
