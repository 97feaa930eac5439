"""Pure kernels: tensors and numbers in, tensors and numbers out. No names, no paths, no logs.

Shape legend, used in every name here:

    M, N   rows and columns of a weight matrix, as stored
    K      min(M, N)
    T      leading directions kept (top-k), T <= K
    R      directions above the rank guard, R <= K

The *square side* is the smaller one: its K singular vectors form a full K×K orthogonal basis
(vh when M >= N, u otherwise). The other one, the *thin* side, is W·v/s and is never stored.
All spectra are float64 and descending.
"""
