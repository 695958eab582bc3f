//! (expert)
