//! The rows of a product: a matrix, or what each output of a convolution sees.

/// Rows of k numbers, in `taps` parts of one length each.
pub(in crate::nn) trait Rows: Sync {
    /// Where a row is.
    type Place: Copy;
    fn count(&self) -> usize;
    /// Numbers that all rows together read.
    fn numbers(&self) -> usize;
    fn place(&self, row: usize) -> Self::Place;
    fn part(&self, place: Self::Place, tap: usize) -> &[f32];
}

/// `count` rows, `stride` apart, of parts of `length` numbers behind each other.
#[derive(Clone, Copy)]
pub(in crate::nn) struct Matrix<'a> {
    pub(in crate::nn) numbers: &'a [f32],
    pub(in crate::nn) count: usize,
    pub(in crate::nn) length: usize,
    pub(in crate::nn) stride: usize,
}

impl<'a> Matrix<'a> {
    /// Rows of one part of `length` that lie behind each other.
    pub(in crate::nn) fn new(numbers: &'a [f32], length: usize) -> Self {
        Self { numbers, count: numbers.len() / length.max(1), length, stride: length }
    }
}

impl Rows for Matrix<'_> {
    type Place = usize;

    fn count(&self) -> usize {
        self.count
    }

    fn numbers(&self) -> usize {
        self.count * self.stride
    }

    #[inline(always)]
    fn place(&self, row: usize) -> usize {
        row * self.stride
    }

    #[inline(always)]
    fn part(&self, place: usize, tap: usize) -> &[f32] {
        &self.numbers[place + tap * self.length..][..self.length]
    }
}

/// How a kernel goes over a picture with the channels last; a time axis is a picture of one line.
#[derive(Clone, Copy, Debug)]
pub(in crate::nn) struct Window {
    /// Taps down and across.
    pub(in crate::nn) kernel: [usize; 2],
    /// Pixels from one output to the next.
    pub(in crate::nn) stride: [usize; 2],
    /// Zeros above and to the left; those below and to the right follow from the output.
    pub(in crate::nn) padding: [usize; 2],
    /// Pixels from one tap to the next.
    pub(in crate::nn) dilation: usize,
    /// Lines and columns of the output.
    pub(in crate::nn) output: [usize; 2],
}

impl Window {
    pub(in crate::nn) fn taps(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// Whether every output sees its own pixel alone.
    pub(in crate::nn) fn is_point(&self) -> bool {
        self.kernel == [1, 1] && self.stride == [1, 1] && self.padding == [0, 0]
    }

    /// The window through which a picture of `size` sees the outputs that it had a share in, its taps in
    /// reverse; none where the window moves by more than one pixel, or there is more padding than reach.
    pub(in crate::nn) fn reversed(&self, size: [usize; 2]) -> Option<Self> {
        let padding =
            |axis: usize| (self.dilation * (self.kernel[axis] - 1)).checked_sub(self.padding[axis]);
        let padding = [padding(0)?, padding(1)?];
        (self.stride == [1, 1]).then_some(Self { padding, output: size, ..*self })
    }
}

/// `[b, h, w, c]` seen through a window: a row per output, a tap per pixel of the kernel.
pub(in crate::nn) struct Windows<'a> {
    numbers: &'a [f32],
    zeros: Vec<f32>,
    size: [usize; 4],
    window: Window,
}

impl<'a> Windows<'a> {
    pub(in crate::nn) fn new(numbers: &'a [f32], size: [usize; 4], window: Window) -> Self {
        Self { numbers, zeros: vec![0.0; size[3]], size, window }
    }
}

impl Rows for Windows<'_> {
    /// Picture, and line and column of the first tap, counted from the padding.
    type Place = [usize; 3];

    fn count(&self) -> usize {
        self.size[0] * self.window.output[0] * self.window.output[1]
    }

    fn numbers(&self) -> usize {
        self.size.iter().product()
    }

    #[inline(always)]
    fn place(&self, row: usize) -> [usize; 3] {
        let Window { stride, output: [lines, columns], .. } = self.window;
        let line = row / columns;
        [line / lines, line % lines * stride[0], row % columns * stride[1]]
    }

    #[inline(always)]
    fn part(&self, [picture, line, column]: [usize; 3], tap: usize) -> &[f32] {
        let [_, h, w, c] = self.size;
        let Window { kernel, padding, dilation, .. } = self.window;
        // Before the picture the difference wraps around, to a number that is beyond it.
        let line = (line + tap / kernel[1] * dilation).wrapping_sub(padding[0]);
        let column = (column + tap % kernel[1] * dilation).wrapping_sub(padding[1]);
        if line < h && column < w {
            &self.numbers[((picture * h + line) * w + column) * c..][..c]
        } else {
            &self.zeros
        }
    }
}
