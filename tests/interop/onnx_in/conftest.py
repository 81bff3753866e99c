collect_ignore = ["make_brevitas_fixtures.py", "torch_networks.py", "onnx_in_table.py"]  # need Brevitas or torch
