//! (numpy_rng)
