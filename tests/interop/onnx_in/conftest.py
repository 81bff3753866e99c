collect_ignore = ["make_brevitas_fixtures.py"]  # needs Brevitas
