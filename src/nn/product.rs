//! Rows times a weight, with bits that do not depend on the number of rows.
//!
//! candle multiplies through the crate gemm, which chooses a kernel by size. Its kernels add in
//! different orders, so a sample alone and the same sample in a batch of eight would differ in the
//! last bits, and a sampler carries that on. Read from gemm 0.19 (`gemm-common/src/gemm.rs`), for
//! `rows` `[m, k]` times `[k, n]`:
//!
//! | when | kernel | order |
//! |---|---|---|
//! | k contiguous on both sides, m·n ≤ 256 | horizontal | SIMD lanes, then across lanes |
//! | m = 1, k contiguous in the weight | dot products | the same |
//! | m = 1, n contiguous in the weight | sums of rows | per output one chain of fused multiply-adds |
//! | otherwise | general | the same chain, restarted every kc |
//!
//! The general kernel's kc is min(k, 512) when m and n are both at most 64, else a function of k alone
//! that is at least min(k, 512). Threads only share out the outputs. So only chains are used, of at
//! most 512 where kc might differ: a weight without a gradient lies with n contiguous and is
//! multiplied in blocks of 512 of k; a trained one stays as the checkpoint has it, where a single
//! row gets a companion of zeros, small products a copy with n contiguous, and only few outputs are
//! summed in blocks. A single output gets a companion too. This is the one place that knows.

use candle_core::{Result, Tensor};

use super::transposed::transposed;

/// Up to so many numbers in the result, the horizontal kernel is in reach.
const SMALL: usize = 256;
/// Up to so many outputs a row, kc depends on the number of rows.
const NARROW: usize = 64;
/// The smallest kc.
const BLOCK: usize = 512;

/// A weight `[out, ..]` as a checkpoint has it, the dimensions after the first taken as one.
#[derive(Clone, Debug)]
pub(crate) enum Weight {
    /// Has a gradient: kept as it is, since an optimiser changes it in place.
    Trained(Tensor),
    /// Has none: `[inputs, out]`, the order in which a single row is fast.
    Fixed(Tensor),
}

impl Weight {
    /// Takes `weight` `[out, ..]`.
    ///
    /// # Errors
    /// When it has fewer than two dimensions.
    pub(crate) fn new(weight: Tensor) -> Result<Self> {
        if weight.track_op() {
            return Ok(Self::Trained(weight));
        }
        Ok(Self::Fixed(transposed(&weight.flatten_from(1)?)?))
    }

    /// `rows` `[m, inputs]` to `[m, out]`.
    ///
    /// # Errors
    /// When the shape is another.
    pub(crate) fn product(&self, rows: &Tensor) -> Result<Tensor> {
        match self {
            Self::Trained(weight) => {
                let few = weight.dim(0)? <= NARROW;
                multiply(rows, &weight.flatten_from(1)?.t()?, few)
            }
            Self::Fixed(weight) => multiply(rows, weight, true),
        }
    }
}

/// `rows` `[m, k]` times `weight` `[k, n]`.
///
/// # Errors
/// When a shape is another.
pub(crate) fn product(rows: &Tensor, weight: &Tensor) -> Result<Tensor> {
    multiply(rows, weight, true)
}

fn multiply(rows: &Tensor, weight: &Tensor, in_blocks: bool) -> Result<Tensor> {
    let (count, inputs) = rows.dims2()?;
    let (expected, outputs) = weight.dims2()?;
    if inputs != expected {
        candle_core::bail!("product: expected rows [m, {expected}], got {:?}", rows.dims());
    }
    if inputs == 1 {
        return rows.broadcast_mul(weight);
    }
    let block = if in_blocks { BLOCK.min(inputs) } else { inputs };
    let weight = match outputs {
        1 => weight.pad_with_zeros(1, 0, 1)?.contiguous()?,
        _ => weight.clone(),
    };
    let alone = count == 1 && block <= BLOCK && weight.is_contiguous();
    let rows = match count {
        1 if !alone => rows.contiguous()?.pad_with_zeros(0, 0, 1)?,
        _ => rows.contiguous()?,
    };
    let weight = match rows.dim(0)? * weight.dim(1)? {
        ..=SMALL => weight.contiguous()?,
        _ => weight,
    };
    let mut out = part(&rows, &weight, 0, block)?;
    for start in (block..inputs).step_by(block.max(1)) {
        out = (out + part(&rows, &weight, start, block)?)?;
    }
    if alone {
        // Here the chain begins with the first product, elsewhere with 0: no sum is −0 there.
        out = (out + 0.0)?;
    }
    let out = if count == 1 && !alone { out.narrow(0, 0, 1)? } else { out };
    if outputs == 1 { out.narrow(1, 0, 1)?.contiguous() } else { Ok(out) }
}

/// The share of inputs `start .. start + block`.
fn part(rows: &Tensor, weight: &Tensor, start: usize, block: usize) -> Result<Tensor> {
    let inputs = rows.dim(1)?;
    if block >= inputs {
        return rows.matmul(weight);
    }
    let len = block.min(inputs - start);
    rows.narrow(1, start, len)?.matmul(&weight.narrow(0, start, len)?)
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Var};

    use super::*;
    use crate::flow::Noise;

    fn normal(sample: u64, rows: usize, columns: usize, dtype: DType) -> Tensor {
        let z = Noise::new(5).normal(sample, 0, rows * columns);
        Tensor::from_vec(z, (rows, columns), &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
    }

    fn bits(tensor: &Tensor) -> Vec<u64> {
        let wide = tensor.to_dtype(DType::F64).unwrap().flatten_all().unwrap();
        wide.to_vec1::<f64>().unwrap().into_iter().map(f64::to_bits).collect()
    }

    /// Every row alone, in pairs and in larger batches; fixed and trained weights.
    #[test]
    fn a_row_has_the_same_bits_in_any_company() {
        let inputs = [1, 2, 3, 16, 31, 448, 512, 513, 700, 1030];
        let outputs = [1, 2, 5, 32, 64, 65, 130];
        for (dtype, n, k) in [DType::F32, DType::F64].into_iter().flat_map(|dtype| {
            outputs.into_iter().flat_map(move |n| inputs.into_iter().map(move |k| (dtype, n, k)))
        }) {
            let (x, w) = (normal(0, 200, k, dtype), normal(1, n, k, dtype));
            let fixed = Weight::new(w.clone()).unwrap();
            let trained = Weight::new(Var::from_tensor(&w).unwrap().as_tensor().clone()).unwrap();
            assert!(matches!(fixed, Weight::Fixed(_)) && matches!(trained, Weight::Trained(_)));
            let exact = x.matmul(&w.t().unwrap()).unwrap();
            for weight in [&fixed, &trained] {
                let whole = weight.product(&x).unwrap();
                assert_eq!(whole.dims(), [200, n]);
                let gap = (&whole - &exact).unwrap().abs().unwrap().max_all().unwrap();
                let gap = gap.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
                assert!(gap < if dtype == DType::F64 { 1e-12 } else { 5e-4 }, "{n} {k}: {gap}");
                for size in [1, 2, 3, 8, 64, 65] {
                    let part = weight.product(&x.narrow(0, 0, size).unwrap()).unwrap();
                    assert_eq!(part.dims(), [size, n]);
                    let same = bits(&part) == bits(&whole.narrow(0, 0, size).unwrap());
                    assert!(same, "{dtype:?} {size} rows, {k} to {n}");
                }
            }
            if k <= BLOCK || n <= NARROW {
                let same = [&fixed, &trained].map(|w| bits(&w.product(&x).unwrap()));
                assert!(same[0] == same[1], "{dtype:?}, {k} to {n}: other bits while trained");
            }
        }
    }

    #[test]
    fn a_row_of_zeros_gives_zeros_of_one_sign() {
        let weight = Weight::new(normal(1, 96, 40, DType::F32)).unwrap();
        for rows in [1, 2, 8] {
            let zeros = Tensor::zeros((rows, 40), DType::F32, &Device::Cpu).unwrap();
            let out = weight.product(&zeros).unwrap();
            assert!(bits(&out).iter().all(|&bits| bits == 0), "{rows} rows");
        }
    }

    /// The broken twin: candle's own product.
    #[test]
    fn candles_own_product_does_not() {
        let (x, w) = (normal(0, 8, 448, DType::F32), normal(1, 96, 448, DType::F32));
        let w = w.t().unwrap();
        let alone = x.narrow(0, 0, 1).unwrap().matmul(&w).unwrap();
        let together = x.matmul(&w).unwrap().narrow(0, 0, 1).unwrap();
        assert!(bits(&alone) != bits(&together), "gemm is repaired");
    }
}
