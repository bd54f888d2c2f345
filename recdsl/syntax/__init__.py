"""Text to `Spec`: the YAML shell and the little languages inside it."""
