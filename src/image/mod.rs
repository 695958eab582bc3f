//! Pictures from noise: what a diffusers folder holds, conditioned, sampled and decoded.
