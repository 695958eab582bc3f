//! A matrix turned once, when a checkpoint is loaded.
//!
//! A strided copy touches a new line of the cache for every number; a billion bytes of weights take
//! seconds. Blocks of 32 × 32 are turned by themselves: rows of a power of two would push each other
//! out of the cache. The threads share the rows of the result.

use candle_core::{CpuStorage, CustomOp1, DType, Layout, Result, Shape, Tensor, WithDType};
use rayon::prelude::*;

/// Side of a block.
const BLOCK: usize = 32;

/// `[rows, columns]` to a contiguous `[columns, rows]`.
///
/// # Errors
/// When the tensor is no matrix.
pub(super) fn transposed(matrix: &Tensor) -> Result<Tensor> {
    matrix.dims2()?;
    let float = [DType::F16, DType::BF16, DType::F32, DType::F64].contains(&matrix.dtype());
    let plain = matrix.device().is_cpu() && float;
    if plain && matrix.is_contiguous() && !matrix.track_op() {
        matrix.apply_op1_no_bwd(&Transpose)
    } else {
        matrix.t()?.contiguous()
    }
}

struct Transpose;

impl CustomOp1 for Transpose {
    fn name(&self) -> &'static str {
        "transposed"
    }

    fn cpu_fwd(&self, storage: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (rows, columns) = layout.shape().dims2()?;
        let from = layout.start_offset();
        let range = from..from + rows * columns;
        let turned = match storage {
            CpuStorage::F32(all) => CpuStorage::F32(turn(&all[range], rows, columns)),
            CpuStorage::F64(all) => CpuStorage::F64(turn(&all[range], rows, columns)),
            CpuStorage::F16(all) => CpuStorage::F16(turn(&all[range], rows, columns)),
            CpuStorage::BF16(all) => CpuStorage::BF16(turn(&all[range], rows, columns)),
            _ => candle_core::bail!("transposed: expected f16, bf16, f32 or f64"),
        };
        Ok((turned, Shape::from((columns, rows))))
    }
}

fn turn<T: WithDType>(from: &[T], rows: usize, columns: usize) -> Vec<T> {
    let mut to = vec![T::zero(); from.len()];
    if from.is_empty() {
        return to;
    }
    // A band of BLOCK columns becomes BLOCK rows of the result.
    to.par_chunks_mut(BLOCK * rows).enumerate().for_each(|(band, to)| {
        let first = band * BLOCK;
        let width = to.len() / rows;
        let mut block = [T::zero(); BLOCK * BLOCK];
        for start in (0..rows).step_by(BLOCK) {
            let height = BLOCK.min(rows - start);
            for row in 0..height {
                let line = &from[(start + row) * columns + first..][..width];
                for (i, &value) in line.iter().enumerate() {
                    block[i * BLOCK + row] = value;
                }
            }
            for (i, line) in block.chunks_exact(BLOCK).take(width).enumerate() {
                to[i * rows + start..][..height].copy_from_slice(&line[..height]);
            }
        }
    });
    to
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;

    #[test]
    fn it_is_the_transposed_matrix_whatever_its_size() {
        for (rows, columns) in [(1, 1), (1, 70), (33, 1), (32, 32), (31, 65), (100, 37), (0, 5)] {
            let count = (rows * columns) as f32;
            let matrix = Tensor::arange(0f32, count, &Device::Cpu).unwrap();
            let matrix = matrix.reshape((rows, columns)).unwrap();
            for dtype in [DType::F32, DType::F64, DType::BF16] {
                let matrix = matrix.to_dtype(dtype).unwrap();
                let turned = transposed(&matrix).unwrap();
                assert!(turned.is_contiguous());
                let numbers =
                    |t: &Tensor| t.to_dtype(DType::F64).unwrap().to_vec2::<f64>().unwrap();
                assert_eq!(numbers(&turned), numbers(&matrix.t().unwrap()), "{rows} {columns}");
            }
        }
        // A view that is not contiguous takes the other way.
        let view = Tensor::arange(0f32, 12f32, &Device::Cpu).unwrap().reshape((4, 3)).unwrap();
        let view = view.narrow(1, 1, 2).unwrap();
        let turned = transposed(&view).unwrap();
        assert_eq!(turned.to_vec2::<f32>().unwrap(), [[1., 4., 7., 10.], [2., 5., 8., 11.]]);
    }
}
