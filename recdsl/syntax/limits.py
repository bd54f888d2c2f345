"""What a spec may cost. Far above any sensible spec, far below what hurts the machine."""

FILE_BYTES = 1024 * 1024
YAML_DEPTH = 64
YAML_NODES = 100_000
NAME_LENGTH = 128
NUMBER_LENGTH = 400
EXPRESSION_BYTES = 64 * 1024
EXPRESSION_NODES = 10_000
NESTING = 200
