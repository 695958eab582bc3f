//! PushT: physics, rendering and an expert, without zenoh or tensors.

pub mod pusht;
