//! Several pictures of one size as one: rows of a grid that is about square.

use super::png::Picture;
use crate::{Error, Result};

/// Pixels between two pictures.
const GAP: usize = 2;
/// Colour of the gaps and of empty places.
const PAPER: u8 = 255;

/// Columns of a grid of `n` pictures: as square as it can be, never narrower than high.
pub fn columns(n: usize) -> usize {
    (1..=n).find(|side| side * side >= n).unwrap_or(1)
}

/// Puts `pictures` in rows of `columns`; one picture alone stays as it is.
///
/// # Errors
/// When there is none, or one has another size.
pub fn grid(pictures: &[Picture], columns: usize) -> Result<Picture> {
    let Some(first) = pictures.first() else {
        return Err(Error::Invalid("grid: expected a picture, got none".into()));
    };
    let (width, height, columns) = (first.width, first.height, columns.clamp(1, pictures.len()));
    let rows = pictures.len().div_ceil(columns);
    let across = columns * (width + GAP) - GAP;
    let down = rows * (height + GAP) - GAP;
    let mut rgb = vec![PAPER; across * down * 3];
    for (i, picture) in pictures.iter().enumerate() {
        let size = [picture.height, picture.width, picture.rgb.len()];
        if size != [height, width, height * width * 3] {
            return Err(Error::shape("grid", [height, width, height * width * 3], size));
        }
        let (left, top) = (i % columns * (width + GAP), i / columns * (height + GAP));
        for (y, row) in picture.rgb.chunks_exact(width * 3).enumerate() {
            let at = ((top + y) * across + left) * 3;
            rgb[at..at + row.len()].copy_from_slice(row);
        }
    }
    Ok(Picture { width: across, height: down, rgb })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grids_are_about_square() {
        let columns: Vec<usize> = [1, 2, 3, 4, 5, 9, 10, 16, 17].map(columns).to_vec();
        assert_eq!(columns, [1, 2, 2, 2, 3, 3, 4, 4, 5]);
    }

    #[test]
    fn every_picture_has_its_place() {
        let picture = |value: u8| Picture { width: 2, height: 1, rgb: vec![value; 6] };
        assert_eq!(grid(&[picture(7)], 4).unwrap(), picture(7));
        let three = grid(&[picture(1), picture(2), picture(3)], 2).unwrap();
        assert_eq!((three.width, three.height), (6, 4));
        let row = |y: usize| -> Vec<u8> {
            three.rgb[y * 18..][..18].iter().step_by(3).copied().collect()
        };
        assert_eq!(row(0), [1, 1, 255, 255, 2, 2]);
        assert_eq!([row(1), row(2)], [[255; 6]; 2]);
        assert_eq!(row(3), [3, 3, 255, 255, 255, 255]);
        let odd = Picture { width: 1, height: 2, rgb: vec![0; 6] };
        assert!(grid(&[picture(1), odd], 2).is_err());
        assert!(grid(&[], 2).is_err());
    }
}
