//! Where tensors live. The only module that names a device.

use candle_core::Device;

/// The CPU, the one device of this build.
pub fn cpu() -> Device {
    Device::Cpu
}
