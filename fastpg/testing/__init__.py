"""For tests of fastpg and of any tabular reinforcement learning code.

`models` turns a model into its dense or sparse twin; `oracles` computes by enumeration, complex step and rational
arithmetic what the library computes fast; `assertions` derives tolerances from conditioning; `strategies` generates
models and policies for Hypothesis, which only that module needs.
"""
