//! Rows times a weight, with bits that do not depend on the number of rows.
//!
//! On the CPU f32 goes through our own kernel (`kernel/`), whose sums have one order whatever the batch:
//! a weight without a gradient is packed once, a trained one at every product, which is little beside
//! the product. Other numbers (f64, for the tests of gradients) take candle's, through the crate gemm, which
//! chooses a kernel by size. Its kernels add in different orders, so a sample alone and the same sample in a
//! batch of eight would differ in the last bits, and a sampler carries that on. Read from gemm 0.19
//! (`gemm-common/src/gemm.rs`), for `rows` `[m, k]` times `[k, n]`:
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

use std::cell::Cell;
use std::sync::Arc;

use candle_core::{CpuStorage, CustomOp1, CustomOp2, DType, Device, Layout, Result, Shape, Tensor};

use super::add_channels::add_channels;
use super::gather::numbers;
use super::kernel::{self, Matrix, Panels, Rows, Storage, Target};
use super::transposed::transposed;

/// Up to so many numbers in the result, the horizontal kernel is in reach.
const SMALL: usize = 256;
/// Up to so many outputs a row, kc depends on the number of rows.
const NARROW: usize = 64;
/// The smallest kc.
const BLOCK: usize = 512;

thread_local! {
    static STORAGE: Cell<Storage> = const { Cell::new(Storage::F32) };
}

/// Runs `load` so that the weights which it packs on this thread are kept as `storage` says.
pub fn stored_as<T>(storage: Storage, load: impl FnOnce() -> T) -> T {
    let before = STORAGE.replace(storage);
    let loaded = load();
    STORAGE.set(before);
    loaded
}

/// A weight `[out, ..]` as a checkpoint has it, the dimensions after the first taken as one.
#[derive(Clone, Debug)]
pub(crate) enum Weight {
    /// Has a gradient: kept as it is, since an optimiser changes it in place.
    Trained(Tensor),
    /// Has none: `[inputs, out]`, the order in which a single row is fast.
    Fixed(Tensor),
    /// Has none, and is f32 on the CPU.
    Packed(Arc<Panels>),
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
        let weight = weight.flatten_from(1)?;
        if !ours(&weight) {
            return Ok(Self::Fixed(transposed(&weight)?));
        }
        let (out, inputs) = weight.dims2()?;
        Self::packed(&weight, kernel::Layout::matrix(out, inputs))
    }

    /// Takes the weight `[out, channels, taps..]` of a convolution; its rows are `[.., taps, channels]`.
    ///
    /// # Errors
    /// When it has fewer than three dimensions.
    pub(crate) fn convolution(weight: &Tensor) -> Result<Self> {
        let weight = weight.flatten_from(2)?;
        let (out, channels, taps) = weight.dims3()?;
        if weight.track_op() || !ours(&weight) {
            return Self::new(weight.transpose(1, 2)?.contiguous()?);
        }
        Self::packed(&weight, kernel::Layout::convolution(out, channels, taps))
    }

    fn packed(weight: &Tensor, layout: kernel::Layout) -> Result<Self> {
        Ok(Self::Packed(Self::pack(weight, layout)?))
    }

    /// Packs a weight that is f32 and on the CPU as [`stored_as`] says.
    ///
    /// # Errors
    /// When it is not.
    pub(super) fn pack(weight: &Tensor, layout: kernel::Layout) -> Result<Arc<Panels>> {
        let pack = |numbers: &[f32]| Arc::new(Panels::pack(numbers, layout, STORAGE.get()));
        with_numbers(weight, pack)
    }

    /// `rows` `[m, inputs]` to `[m, out]`, with a `bias` `[out]` added.
    ///
    /// # Errors
    /// When a shape is another.
    pub(crate) fn affine(&self, rows: &Tensor, bias: Option<&Tensor>) -> Result<Tensor> {
        let learns = |bias: &&Tensor| bias.track_op();
        let inside = bias.filter(|bias| !learns(bias));
        let y = match self {
            Self::Packed(panels) => {
                let op = Multiply { panels: panels.clone(), bias: inside.cloned() };
                let y = rows.contiguous()?.apply_op1(op)?;
                return match bias.filter(learns) {
                    Some(bias) => add_channels(&y, bias),
                    None => Ok(y),
                };
            }
            Self::Trained(weight) if ours(weight) && rows.rank() == 2 => {
                rows.contiguous()?.apply_op2(&weight.contiguous()?, Learn)?
            }
            Self::Trained(weight) => {
                let few = weight.dim(0)? <= NARROW;
                multiply(rows, &weight.flatten_from(1)?.t()?, few)?
            }
            Self::Fixed(weight) => multiply(rows, weight, true)?,
        };
        match bias {
            Some(bias) => add_channels(&y, bias),
            None => Ok(y),
        }
    }
}

/// Whether our kernel takes it.
pub(super) fn ours(x: &Tensor) -> bool {
    x.dtype() == DType::F32 && x.device().is_cpu()
}

/// Calls `read` with the numbers of a tensor, which is f32 and on the CPU.
pub(super) fn with_numbers<T>(x: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T> {
    let x = x.contiguous()?;
    let (storage, layout) = x.storage_and_layout();
    match &*storage {
        candle_core::Storage::Cpu(storage) => Ok(read(numbers(storage, layout)?)),
        _ => candle_core::bail!("expected a tensor on the CPU"),
    }
}

/// `rows` `[m, k]` times panels, where they come from somewhere else: `[m, outputs]`.
///
/// # Errors
/// When a bias has another length.
pub(super) fn multiplied(
    rows: &impl Rows,
    panels: &Panels,
    bias: Option<&Tensor>,
) -> Result<Vec<f32>> {
    match bias {
        None => Ok(kernel::multiply(rows, panels, Target::default())),
        Some(bias) if bias.dims() == [panels.outputs()] => with_numbers(bias, |bias| {
            kernel::multiply(rows, panels, Target { bias: Some(bias), sum: None })
        }),
        Some(bias) => {
            candle_core::bail!("bias: expected [{}], got {:?}", panels.outputs(), bias.dims())
        }
    }
}

/// Rows times a packed weight.
struct Multiply {
    panels: Arc<Panels>,
    bias: Option<Tensor>,
}

impl CustomOp1 for Multiply {
    fn name(&self) -> &'static str {
        "product"
    }

    fn cpu_fwd(&self, rows: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let (m, inputs) = layout.shape().dims2()?;
        expect_inputs(self.panels.inputs(), layout)?;
        // A convolution's weight goes tap by tap, and so do the rows that were gathered for it.
        let length = self.panels.channels();
        let rows = Matrix { numbers: numbers(rows, layout)?, count: m, length, stride: inputs };
        let y = multiplied(&rows, &self.panels, self.bias.as_ref())?;
        Ok((CpuStorage::F32(y), (m, self.panels.outputs()).into()))
    }

    /// Only what comes before learns: a network that judges, and is not trained itself.
    fn bwd(&self, _: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let shape = (self.panels.outputs(), self.panels.inputs());
        let weight = Tensor::from_vec(self.panels.unpacked(), shape, grad.device())?;
        Ok(Some(times(grad, &weight)?))
    }
}

/// `rows` `[m, inputs]` times a weight `[out, inputs]` that learns.
struct Learn;

impl CustomOp2 for Learn {
    fn name(&self) -> &'static str {
        "product-learn"
    }

    fn cpu_fwd(
        &self,
        rows: &CpuStorage,
        rows_layout: &Layout,
        weight: &CpuStorage,
        weight_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (m, inputs) = rows_layout.shape().dims2()?;
        let out = weight_layout.dims().first().copied().unwrap_or(0);
        let weight = numbers(weight, weight_layout)?;
        expect_inputs(weight.len() / out.max(1), rows_layout)?;
        let panels = Panels::pack(weight, kernel::Layout::matrix(out, inputs), Storage::F32);
        let rows = Matrix { count: m, ..Matrix::new(numbers(rows, rows_layout)?, inputs) };
        let y = kernel::multiply(&rows, &panels, Target::default());
        Ok((CpuStorage::F32(y), (m, out).into()))
    }

    fn bwd(
        &self,
        rows: &Tensor,
        weight: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let d_weight = outer(grad, rows)?.reshape(weight.shape())?;
        let d_rows = match rows.track_op() {
            true => Some(times(grad, &weight.detach().flatten_from(1)?)?),
            false => None,
        };
        Ok((d_rows, Some(d_weight)))
    }
}

fn expect_inputs(expected: usize, rows: &Layout) -> Result<()> {
    if rows.dims().get(1) != Some(&expected) {
        candle_core::bail!("product: expected rows [m, {expected}], got {:?}", rows.dims());
    }
    Ok(())
}

/// `grad` `[m, out]` times `weight` `[out, inputs]`: the gradient of the rows. No gradient of its own.
pub(super) fn times(grad: &Tensor, weight: &Tensor) -> Result<Tensor> {
    let (m, out) = grad.dims2()?;
    let inputs = weight.dim(1)?;
    let layout = kernel::Layout::transposed(out, inputs, inputs);
    let panels = with_numbers(weight, |weight| Panels::pack(weight, layout, Storage::F32))?;
    let y = with_numbers(grad, |grad| {
        let rows = Matrix { count: m, ..Matrix::new(grad, out) };
        kernel::multiply(&rows, &panels, Target::default())
    })?;
    Tensor::from_vec(y, (m, inputs), &Device::Cpu)
}

/// `gradᵀ·rows` of `[m, out]` and `[m, inputs]`: the gradient of the weight. No gradient of its own.
pub(super) fn outer(grad: &Tensor, rows: &Tensor) -> Result<Tensor> {
    let (m, out) = grad.dims2()?;
    let inputs = rows.dim(1)?;
    let layout = kernel::Layout::transposed(m, inputs, inputs);
    let panels = with_numbers(rows, |rows| Panels::pack(rows, layout, Storage::F32))?;
    let turned = transposed(&grad.detach())?;
    let y = with_numbers(&turned, |grad| {
        let rows = Matrix { count: out, ..Matrix::new(grad, m) };
        kernel::multiply(&rows, &panels, Target::default())
    })?;
    Tensor::from_vec(y, (out, inputs), &Device::Cpu)
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
            assert!(!matches!(fixed, Weight::Trained(_)) && matches!(trained, Weight::Trained(_)));
            let exact = x.matmul(&w.t().unwrap()).unwrap();
            for weight in [&fixed, &trained] {
                let whole = weight.affine(&x, None).unwrap();
                assert_eq!(whole.dims(), [200, n]);
                let gap = (&whole - &exact).unwrap().abs().unwrap().max_all().unwrap();
                let gap = gap.to_dtype(DType::F64).unwrap().to_scalar::<f64>().unwrap();
                assert!(gap < if dtype == DType::F64 { 1e-12 } else { 5e-4 }, "{n} {k}: {gap}");
                for size in [1, 2, 3, 8, 64, 65] {
                    let part = weight.affine(&x.narrow(0, 0, size).unwrap(), None).unwrap();
                    assert_eq!(part.dims(), [size, n]);
                    let same = bits(&part) == bits(&whole.narrow(0, 0, size).unwrap());
                    assert!(same, "{dtype:?} {size} rows, {k} to {n}");
                }
            }
            if k <= BLOCK || n <= NARROW {
                let same = [&fixed, &trained].map(|w| bits(&w.affine(&x, None).unwrap()));
                assert!(same[0] == same[1], "{dtype:?}, {k} to {n}: other bits while trained");
            }
        }
    }

    #[test]
    fn a_row_of_zeros_gives_zeros_of_one_sign() {
        let weight = Weight::new(normal(1, 96, 40, DType::F32)).unwrap();
        for rows in [1, 2, 8] {
            let zeros = Tensor::zeros((rows, 40), DType::F32, &Device::Cpu).unwrap();
            let out = weight.affine(&zeros, None).unwrap();
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
