//! `Row`: one line of the result.

use serde::Serialize;

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The case.
    pub name: &'static str,
    /// What it worked on.
    pub shape: String,
    /// Type of weights and products: `f32`, `bf16`, or a quantised format.
    pub dtype: &'static str,
    /// Threads that computed.
    pub threads: usize,
    /// Median of the runs, seconds.
    pub median_s: f64,
    /// Rate of operations, 10⁹ a second; absent where bytes are what counts.
    pub gflops: Option<f64>,
    /// What the machine reached in the same run with nothing else to do.
    pub ceiling_gflops: Option<f64>,
    /// Rate of bytes, 10⁹ a second; absent where operations are what counts.
    pub gbps: Option<f64>,
    /// What the machine reached in the same run when it only moved bytes.
    pub ceiling_gbps: Option<f64>,
    /// Rate as a fraction of its ceiling.
    pub fraction: Option<f64>,
    /// Items a second: samples, tokens, pictures.
    pub samples_per_s: Option<f64>,
    /// Stock candle's median in the same run, seconds.
    pub peer_s: Option<f64>,
    /// Largest memory of the process so far, 10⁶ bytes; of models, whose case ran alone.
    pub peak_mb: Option<f64>,
}
