"""What a run will take, by arithmetic: memory by part, steps, time, energy and money, and whether it fits.

Knows numbers about a base model, a dataset and a machine; loads neither, and starts nothing.
"""
