"""Jacobians of one step as sums of structured pieces, written in the closed set of ops."""
