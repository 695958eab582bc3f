//! (coverage)
