//! ResNet without its last two layers: pictures to feature maps.
//!
//! He, Zhang, Ren, Sun 2016, as torchvision builds it (`torchvision/models/resnet.py`): a stem of a
//! 7×7 convolution and a pooling, then four groups of blocks, each `relu(x + f(x))`; the stride of a
//! bottleneck is on its 3×3 convolution. LeRobot's policies name the weights in two ways and
//! normalise in three.
//!
//! Inside, the channels are last, which is what a convolution as a matrix product reads and writes.

use candle_core::Tensor;
use candle_nn::{Init, VarBuilder};

use super::batch_norm::{BatchNorm2d, BatchNormKind};
use super::conv2d::{Conv2d, Geometry};
use super::norm::GroupNorm;
use super::pool::max_pool_last;
use crate::{Error, Result};

const EPS: f64 = 1e-5;
/// Channels of a group of LeRobot's group normalisation.
const GROUP: usize = 16;

/// How many layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Blocks of two 3×3 convolutions: 2, 2, 2, 2.
    Resnet18,
    /// The same blocks: 3, 4, 6, 3.
    Resnet34,
    /// Bottlenecks: 3, 4, 6, 3.
    Resnet50,
    /// Bottlenecks: 3, 4, 23, 3.
    Resnet101,
    /// Bottlenecks: 3, 8, 36, 3.
    Resnet152,
}

impl Depth {
    const NAMES: [(&'static str, Self); 5] = [
        ("resnet18", Self::Resnet18),
        ("resnet34", Self::Resnet34),
        ("resnet50", Self::Resnet50),
        ("resnet101", Self::Resnet101),
        ("resnet152", Self::Resnet152),
    ];

    /// The network of torchvision's name, such as `resnet18`.
    ///
    /// # Errors
    /// When the name stands for no network known here.
    pub fn by_name(name: &str) -> Result<Self> {
        match Self::NAMES.iter().find(|(known, _)| *known == name) {
            Some(&(_, depth)) => Ok(depth),
            None => Err(Error::Unknown {
                what: "vision backbone".to_owned(),
                expected: Self::NAMES.map(|(known, _)| known).join(", "),
                got: name.to_owned(),
            }),
        }
    }

    fn blocks(self) -> [usize; 4] {
        match self {
            Self::Resnet18 => [2, 2, 2, 2],
            Self::Resnet34 | Self::Resnet50 => [3, 4, 6, 3],
            Self::Resnet101 => [3, 4, 23, 3],
            Self::Resnet152 => [3, 8, 36, 3],
        }
    }

    /// Channels after a block as a multiple of those inside: 4 for bottlenecks.
    fn expansion(self) -> usize {
        match self {
            Self::Resnet18 | Self::Resnet34 => 1,
            Self::Resnet50 | Self::Resnet101 | Self::Resnet152 => 4,
        }
    }
}

/// What follows each convolution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ResNetNorm {
    /// Group normalisation with groups of 16 channels (LeRobot's `use_group_norm`).
    Group,
    /// Batch normalisation with the statistics of training, `num_batches_tracked` in the file.
    Batch,
    /// The same with constants only, as ACT has it.
    Frozen,
}

/// What the weights are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Naming {
    /// By position: `0`, `1`, `4` to `7` (LeRobot's diffusion policy puts the layers in a
    /// `Sequential`).
    Sequential,
    /// As torchvision does: `conv1`, `bn1`, `layer1` to `layer4`.
    Named,
}

impl Naming {
    /// Names of the stem's convolution, its normalisation and the four groups of blocks.
    fn names(self) -> (&'static str, &'static str, [&'static str; 4]) {
        match self {
            Self::Sequential => ("0", "1", ["4", "5", "6", "7"]),
            Self::Named => ("conv1", "bn1", ["layer1", "layer2", "layer3", "layer4"]),
        }
    }
}

/// Which ResNet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResNetConfig {
    /// How many layers.
    pub depth: Depth,
    /// What follows each convolution.
    pub norm: ResNetNorm,
    /// Whether the last group of blocks dilates its kernels instead of halving the picture
    /// (torchvision's `replace_stride_with_dilation=[False, False, True]`).
    pub dilate_last: bool,
    /// What the weights are called.
    pub naming: Naming,
}

impl ResNetConfig {
    /// Channels of the feature map.
    pub fn channels(&self) -> usize {
        512 * self.depth.expansion()
    }

    /// Height and width of the feature map of a picture of `[height, width]`.
    pub fn output_size(&self, size: [usize; 2]) -> [usize; 2] {
        let halvings = if self.dilate_last { 4 } else { 5 };
        size.map(|length| (0..halvings).fold(length, |length, _| length.div_ceil(2)))
    }

    /// Checks that torchvision builds such a network.
    ///
    /// # Errors
    /// When it does not.
    pub fn validate(&self) -> Result<()> {
        if self.dilate_last && self.depth.expansion() == 1 {
            return Err(Error::Invalid(
                "resnet: expected a resnet50, resnet101 or resnet152 for a dilated last stage, got \
                 blocks of two convolutions, which torchvision does not dilate; set \
                 replace_final_stride_with_dilation to false"
                    .to_owned(),
            ));
        }
        Ok(())
    }
}

/// The network.
#[derive(Clone, Debug)]
pub struct ResNet {
    stem: Layer,
    blocks: Vec<Block>,
}

impl ResNet {
    /// Loads the weights; new ones start as torchvision's.
    ///
    /// # Errors
    /// When torchvision builds no such network, or a tensor is missing or has another shape.
    pub fn load(config: &ResNetConfig, vb: VarBuilder<'_>) -> Result<Self> {
        config.validate()?;
        let (conv, norm, groups) = config.naming.names();
        let geometry = Geometry { stride: 2, padding: 3, dilation: 1 };
        let stem = Layer::load([3, 64, 7], geometry, config.norm, [vb.pp(conv), vb.pp(norm)])?;
        let mut blocks = Vec::new();
        let mut channels = 64;
        for (group, (name, count)) in groups.into_iter().zip(config.depth.blocks()).enumerate() {
            let dilated = config.dilate_last && group == 3;
            for i in 0..count {
                let shape = Shape {
                    input: channels,
                    width: 64 << group,
                    stride: if i == 0 && group > 0 && !dilated { 2 } else { 1 },
                    // The first block of the group still has the dilation of the one before.
                    dilation: if i > 0 && dilated { 2 } else { 1 },
                };
                blocks.push(Block::load(config, &shape, vb.pp(name).pp(i))?);
                channels = shape.width * config.depth.expansion();
            }
        }
        Ok(Self { stem, blocks })
    }

    /// `x` `[b, 3, h, w]` to `[b, channels, h', w']`, see [`ResNetConfig::output_size`].
    ///
    /// # Errors
    /// When there are other channels or dimensions, or no pixels.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        if !matches!(*x.dims(), [_, 3, (1..), (1..)]) {
            return Err(Error::shape("resnet", "[b, 3, h, w] with pixels", x.dims()));
        }
        let x = self.stem.forward(&x.permute((0, 2, 3, 1))?)?.relu()?;
        let mut x = max_pool_last(&x)?;
        for block in &self.blocks {
            x = block.forward(&x)?;
        }
        Ok(x.permute((0, 3, 1, 2))?)
    }
}

/// `relu(x + f(x))`, with x brought to the size of f(x) where it has another.
#[derive(Clone, Debug)]
struct Block {
    layers: Vec<Layer>,
    downsample: Option<Layer>,
}

/// Sizes of a block: input channels, channels inside, stride and dilation.
struct Shape {
    input: usize,
    width: usize,
    stride: usize,
    dilation: usize,
}

impl Block {
    fn load(config: &ResNetConfig, shape: &Shape, vb: VarBuilder<'_>) -> Result<Self> {
        let &Shape { input, width, stride, dilation } = shape;
        let out = width * config.depth.expansion();
        let point = |stride| Geometry { stride, padding: 0, dilation: 1 };
        let square = |stride, dilation| Geometry { stride, padding: dilation, dilation };
        let layers = match config.depth.expansion() {
            1 => vec![([input, width, 3], square(stride, 1)), ([width, out, 3], square(1, 1))],
            _ => vec![
                ([input, width, 1], point(1)),
                ([width, width, 3], square(stride, dilation)),
                ([width, out, 1], point(1)),
            ],
        };
        let load = |(i, (sizes, geometry)): (usize, ([usize; 3], Geometry))| {
            let names = [vb.pp(format!("conv{}", i + 1)), vb.pp(format!("bn{}", i + 1))];
            Layer::load(sizes, geometry, config.norm, names)
        };
        let layers = layers.into_iter().enumerate().map(load).collect::<Result<_>>()?;
        let downsample = match stride != 1 || input != out {
            true => {
                let names = [vb.pp("downsample.0"), vb.pp("downsample.1")];
                Some(Layer::load([input, out, 1], point(stride), config.norm, names)?)
            }
            false => None,
        };
        Ok(Self { layers, downsample })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut y = x.clone();
        for (i, layer) in self.layers.iter().enumerate() {
            y = if i == 0 { y } else { y.relu()? };
            y = layer.forward(&y)?;
        }
        let x = match &self.downsample {
            Some(layer) => layer.forward(x)?,
            None => x.clone(),
        };
        Ok((y + x)?.relu()?)
    }
}

/// A convolution and its normalisation, channels last.
#[derive(Clone, Debug)]
struct Layer {
    conv: Conv2d,
    norm: Norm,
}

#[derive(Clone, Debug)]
enum Norm {
    Group(GroupNorm),
    Batch(BatchNorm2d),
}

impl Layer {
    fn load(
        sizes: [usize; 3],
        geometry: Geometry,
        norm: ResNetNorm,
        [conv, vb]: [VarBuilder<'_>; 2],
    ) -> Result<Self> {
        let [_, out, kernel] = sizes;
        // torchvision's start: normal, so that the gradient keeps its size through a ReLU.
        let stdev = (2.0 / (out * kernel * kernel) as f64).sqrt();
        let conv = Conv2d::load_no_bias(sizes, geometry, Init::Randn { mean: 0.0, stdev }, conv)?;
        let norm = match norm {
            ResNetNorm::Group => Norm::Group(GroupNorm::load(out, out / GROUP, EPS, vb)?),
            ResNetNorm::Batch => {
                Norm::Batch(BatchNorm2d::load(out, EPS, BatchNormKind::Tracked, vb)?)
            }
            ResNetNorm::Frozen => {
                Norm::Batch(BatchNorm2d::load(out, EPS, BatchNormKind::Frozen, vb)?)
            }
        };
        Ok(Self { conv, norm })
    }

    fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let x = self.conv.forward_last(x)?;
        match &self.norm {
            Norm::Batch(norm) => norm.forward_last(&x),
            Norm::Group(norm) => Ok(norm.forward_last(&x)?),
        }
    }
}
