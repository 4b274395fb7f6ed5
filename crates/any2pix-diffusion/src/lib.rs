//! Everything that denoises: schedulers, prior, UNet, VAE, IP-Adapter, inversion.
