"""External memory: what a store is (`store.py`), read off a spec (`check.py`), and lowered into a step (`slots.py`).

The lowering of today is a fixed number of slots as carried states. Another one starts from the same `Store`.
"""
