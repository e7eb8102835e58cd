"""Benchmarks of a config: training step and its parts, sampling, data loading and start-up.

Times are compared with matrix-product throughput measured in the same run.
"""
