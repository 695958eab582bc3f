//! (physics)
