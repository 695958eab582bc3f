//! Tensors to pixels and back: −1 is black, 1 is white.

use candle_core::{DType, Device, Tensor};

use super::png::{Numbers, Picture};
use crate::{Error, Result};

/// The pictures of `x` `[b, 3, h, w]` (or one channel, grey): x/2 + 1/2, cut to 0 and 1, times 255,
/// rounded, a half to the even level as torch does.
///
/// # Errors
/// When there are other dimensions or channels, or a value is not a number.
pub fn pictures(x: &Tensor) -> Result<Vec<Picture>> {
    let &[b, channels @ (1 | 3), height, width] = x.dims() else {
        return Err(Error::shape("pictures", "[b, 1 or 3, h, w]", x.dims()));
    };
    let values: Vec<f32> = x.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?;
    if let Some(value) = values.iter().find(|value| value.is_nan()) {
        return Err(Error::range("picture", "numbers", f64::from(*value)));
    }
    let level = |value: f32| (255.0 * (value / 2.0 + 0.5).clamp(0.0, 1.0)).round_ties_even() as u8;
    let plane = height * width;
    let one = |i: usize| {
        let picture = &values[i * channels * plane..(i + 1) * channels * plane];
        let pixel = |at: usize| [0, 1, 2].map(|c| level(picture[(c % channels) * plane + at]));
        Picture { width, height, rgb: (0..plane).flat_map(pixel).collect() }
    };
    Ok((0..b).map(one).collect())
}

/// A picture as `[1, 3, h, w]` from −1 to 1.
///
/// # Errors
/// When it has another number of bytes than pixels.
pub fn tensor(picture: &Picture, device: &Device) -> Result<Tensor> {
    let values: Vec<f32> = picture.rgb.iter().map(|v| f32::from(*v) / 127.5 - 1.0).collect();
    let shape = (1, picture.height, picture.width, 3);
    Ok(Tensor::from_vec(values, shape, device)?.permute((0, 3, 1, 2))?.contiguous()?)
}

/// The brightness of a picture as `[1, 1, h, w]` from 0 to 1, with the weights of ITU-R BT.601.
///
/// # Errors
/// When it has another number of bytes than pixels.
pub fn brightness(picture: &Picture, device: &Device) -> Result<Tensor> {
    // Whole numbers: white is 1 and black 0 to the last bit.
    let one = |p: &[u8]| 299 * u32::from(p[0]) + 587 * u32::from(p[1]) + 114 * u32::from(p[2]);
    let values: Vec<f32> = picture.rgb.chunks_exact(3).map(|p| one(p) as f32 / 255e3).collect();
    Ok(Tensor::from_vec(values, (1, 1, picture.height, picture.width), device)?)
}

/// A map of another size: every pixel takes the number of the nearest, since numbers of classes
/// have no mean.
pub fn nearest(map: &Numbers, [height, width]: [usize; 2]) -> Numbers {
    // The centre of a pixel, 2i + 1 of 2n, among the pixels of the other side.
    let place =
        |i: usize, n: usize, of: usize| ((2 * i + 1) * of / (2 * n)).min(of.saturating_sub(1));
    let mut values = Vec::with_capacity(height * width);
    for y in 0..height {
        let row = &map.values[place(y, height, map.height) * map.width..][..map.width];
        values.extend((0..width).map(|x| row[place(x, width, map.width)]));
    }
    Numbers { width, height, values }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_comes_back() {
        let rgb: Vec<u8> = (0..=255).chain(0..=255).chain(0..=255).collect();
        let picture = Picture { width: 16, height: 16, rgb };
        let x = tensor(&picture, &Device::Cpu).unwrap();
        assert_eq!(x.dims(), [1, 3, 16, 16]);
        assert_eq!(pictures(&x).unwrap(), [picture]);
    }

    #[test]
    fn values_are_cut_and_rounded() {
        let values = [-9.0f32, 0.0, 1.0 / 255.0, f32::INFINITY];
        let x = Tensor::from_slice(&values, (1, 1, 2, 2), &Device::Cpu).unwrap();
        let grey: Vec<u8> = pictures(&x).unwrap()[0].rgb.iter().step_by(3).copied().collect();
        // 127.5 goes to the even 128, 128.0 stays.
        assert_eq!(grey, [0, 128, 128, 255]);
        let nan = Tensor::new(&[[[[f32::NAN]]]], &Device::Cpu).unwrap();
        assert!(pictures(&nan).is_err());
        assert!(pictures(&Tensor::zeros((1, 2, 1, 1), DType::F32, &Device::Cpu).unwrap()).is_err());
    }

    #[test]
    fn white_is_one_and_black_zero() {
        let picture = Picture { width: 3, height: 1, rgb: vec![0, 0, 0, 255, 255, 255, 0, 255, 0] };
        let x = brightness(&picture, &Device::Cpu).unwrap();
        assert_eq!(x.flatten_all().unwrap().to_vec1::<f32>().unwrap(), [0.0, 1.0, 0.587]);
    }

    #[test]
    fn maps_are_resized_by_the_nearest() {
        let map = Numbers { width: 2, height: 2, values: vec![1, 2, 3, 4] };
        assert_eq!(nearest(&map, [2, 2]), map);
        assert_eq!(nearest(&map, [1, 4]).values, [3, 3, 4, 4]);
        assert_eq!(nearest(&map, [4, 2]).values, [1, 2, 1, 2, 3, 4, 3, 4]);
        let wide = Numbers { width: 5, height: 1, values: vec![0, 1, 2, 3, 4] };
        assert_eq!(nearest(&wide, [1, 1]).values, [2]);
    }
}
