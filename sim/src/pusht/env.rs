//! (env)
