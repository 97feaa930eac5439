"""The catalogue of weight metrics: what two matrices, before and after, differ by.

    catalogue     all of them, and `measure`, which computes them
    registry      what a metric says of itself
    pair          two matrices with what several metrics need, computed once
    spectra       their singular values
    updates       W_after − W_before
    subspaces     their leading subspaces, and single directions
    trajectories  a list of checkpoints

Each metric is compared with its null: the same metric of before and before plus Gaussian noise of
the update's norm (`random_pair`). Shapes are those of `svdjobs.kernels`.
"""
