//! CPU compute on plain slices: GEMM, convolution, attention, normalisation, forward and backward.
