//! `ResnetBlock2D`, and the layers that halve and double a picture; the VAE uses them too.

use any2pix_nn::layers::Conv2dConfig;
use any2pix_nn::{Conv2d, GroupNorm, Linear, ops};
use candle_core::{Result, Tensor};
use candle_nn::VarBuilder;

/// Two convolutions with a residual connection; with a timestep embedding between them.
#[derive(Clone, Debug)]
pub struct ResnetBlock2D {
    norm1: GroupNorm,
    conv1: Conv2d,
    time_emb_proj: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv2d,
    conv_shortcut: Option<Conv2d>,
    recompute: bool,
}

/// The numbers of a [`ResnetBlock2D`].
#[derive(Clone, Copy, Debug)]
pub struct ResnetConfig {
    /// Channels in.
    pub in_channels: usize,
    /// Channels out.
    pub out_channels: usize,
    /// Width of the timestep embedding; `None` when there is none.
    pub temb_channels: Option<usize>,
    /// Groups of both norms.
    pub groups: usize,
    /// ε of both norms.
    pub eps: f64,
}

impl ResnetBlock2D {
    /// Builds the layers from `vb`.
    pub fn load(vb: VarBuilder, config: &ResnetConfig) -> Result<Self> {
        let ResnetConfig { in_channels, out_channels, temb_channels, groups, eps } = *config;
        let time_emb_proj = temb_channels
            .map(|width| Linear::load(vb.pp("time_emb_proj"), width, out_channels))
            .transpose()?;
        let conv_shortcut = (in_channels != out_channels)
            .then(|| {
                let vb = vb.pp("conv_shortcut");
                Conv2d::load(vb, in_channels, out_channels, Conv2dConfig::K1)
            })
            .transpose()?;
        Ok(Self {
            norm1: GroupNorm::load(vb.pp("norm1"), groups, in_channels, eps)?,
            conv1: Conv2d::load(vb.pp("conv1"), in_channels, out_channels, Conv2dConfig::K3)?,
            time_emb_proj,
            norm2: GroupNorm::load(vb.pp("norm2"), groups, out_channels, eps)?,
            conv2: Conv2d::load_zero(vb.pp("conv2"), out_channels, out_channels, Conv2dConfig::K3)?,
            conv_shortcut,
            recompute: false,
        })
    }

    /// Lets the backward pass compute the block again instead of keeping what is in it.
    pub fn enable_gradient_checkpointing(&mut self) {
        self.recompute = true;
    }

    /// # Shapes
    /// `hidden_states` `(b, h, w, in)`, `temb` `(b, t)`, already through SiLU → `(b, h, w, out)`.
    pub fn forward(&self, hidden_states: &Tensor, temb: Option<&Tensor>) -> Result<Tensor> {
        let (true, Some(temb)) = (self.recompute, temb) else {
            return self.run(hidden_states, temb);
        };
        let block = self.clone();
        ops::recomputed(&[hidden_states, temb], move |t| block.run(&t[0], Some(&t[1])))
    }

    fn run(&self, hidden_states: &Tensor, temb: Option<&Tensor>) -> Result<Tensor> {
        let mut hidden = self.conv1.forward(&self.norm1.forward_silu(hidden_states)?)?;
        if let (Some(projection), Some(temb)) = (&self.time_emb_proj, temb) {
            hidden = ops::add_to_each_position(&hidden, &projection.forward(temb)?)?;
        }
        let hidden = self.conv2.forward(&self.norm2.forward_silu(&hidden)?)?;
        match &self.conv_shortcut {
            Some(shortcut) => ops::add(&shortcut.forward(hidden_states)?, &hidden),
            None => ops::add(hidden_states, &hidden),
        }
    }
}

/// Halves height and width.
#[derive(Clone, Debug)]
pub struct Downsample2D {
    conv: Conv2d,
    padding: usize,
}

impl Downsample2D {
    /// `padding` 1 pads all around (UNet), 0 pads right and bottom only (VAE).
    pub fn load(vb: VarBuilder, channels: usize, padding: usize) -> Result<Self> {
        let config = Conv2dConfig { kernel: 3, stride: 2, padding };
        Ok(Self { conv: Conv2d::load(vb.pp("conv"), channels, channels, config)?, padding })
    }

    /// # Shapes
    /// `(b, h, w, c)` → `(b, h/2, w/2, c)`.
    pub fn forward(&self, hidden_states: &Tensor) -> Result<Tensor> {
        if self.padding > 0 {
            return self.conv.forward(hidden_states);
        }
        let padded = hidden_states.pad_with_zeros(1, 0, 1)?.pad_with_zeros(2, 0, 1)?;
        self.conv.forward(&padded)
    }
}

/// Doubles height and width, or goes to the size of the skip connection that follows.
#[derive(Clone, Debug)]
pub struct Upsample2D {
    conv: Conv2d,
}

impl Upsample2D {
    /// Builds the layer from `vb`.
    pub fn load(vb: VarBuilder, channels: usize) -> Result<Self> {
        let conv = Conv2d::load(vb.pp("conv"), channels, channels, Conv2dConfig::K3)?;
        Ok(Self { conv })
    }

    /// # Shapes
    /// `(b, h, w, c)` → `(b, height, width, c)`; `size` `None` doubles.
    pub fn forward(&self, hidden_states: &Tensor, size: Option<(usize, usize)>) -> Result<Tensor> {
        let (_, h, w, _) = hidden_states.dims4()?;
        let size = size.unwrap_or((2 * h, 2 * w));
        let upsampled = if size == (2 * h, 2 * w) {
            ops::upsample_nearest2x(hidden_states)?
        } else {
            let rows = nearest(h, size.0, hidden_states)?;
            let columns = nearest(w, size.1, hidden_states)?;
            hidden_states.index_select(&rows, 1)?.index_select(&columns, 2)?
        };
        self.conv.forward(&upsampled)
    }
}

/// Which source row each of `to` rows repeats.
fn nearest(from: usize, to: usize, like: &Tensor) -> Result<Tensor> {
    let rows: Vec<u32> = (0..to).map(|i| (i * from / to.max(1)) as u32).collect();
    Tensor::new(rows, like.device())
}
