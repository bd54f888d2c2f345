"""Measurements of compiled models beside plain PyTorch. Run `python -m benchmarks run --suite bptt`."""
