//! `--dtype`: how the weights of a network are kept.

use pathline::nn::{Storage, stored_as};

/// How weights are kept in memory.
#[derive(Clone, Copy, Debug, Default, clap::ValueEnum)]
enum Dtype {
    #[default]
    F32,
    Bf16,
    Int8,
}

#[derive(clap::Args, Clone, Copy, Debug, Default)]
pub(crate) struct DtypeArgs {
    /// How weights are kept: f32, bf16 (half the memory) or int8 (a quarter, a scale per output);
    /// the computation is f32. Large policies are bound by reading weights, and gain what they save.
    #[arg(long, value_enum, value_name = "DTYPE", default_value = "f32")]
    dtype: Dtype,
}

impl DtypeArgs {
    /// Runs `load`, a function that reads networks.
    pub(crate) fn load<T>(self, load: impl FnOnce() -> T) -> T {
        let storage = match self.dtype {
            Dtype::F32 => Storage::F32,
            Dtype::Bf16 => Storage::Bf16,
            Dtype::Int8 => Storage::Int8,
        };
        stored_as(storage, load)
    }

    pub(crate) fn name(self) -> &'static str {
        match self.dtype {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::Int8 => "int8",
        }
    }
}
