//! Networks and the layers they are made of.

pub mod conv;
pub mod unet1d;
